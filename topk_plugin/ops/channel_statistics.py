"""Mean, biased variance and count of every channel, over the batches of all processes."""

import torch
import torch.distributed as dist
from torch import Tensor

from topk_plugin.ops.batch_norm_kernels import by_kernels
from topk_plugin.ops.batch_norm_reference import group_of
from topk_plugin.ops.image_layout import dense, values_a_channel, wide_dtype

torch.library.define(
    "topk_plugin::batch_statistics",
    "(Tensor x, str group_name) -> (Tensor, Tensor, Tensor)",
    tags=(torch.Tag.pt2_compliant_tag,),
)


@torch.library.impl("topk_plugin::batch_statistics", "CompositeExplicitAutograd")
def _batch_statistics(x: Tensor, group_name: str) -> tuple[Tensor, Tensor, Tensor]:
    values = values_a_channel(x)
    dtype = wide_dtype(x)
    if values == 0:
        mean, variance = (torch.zeros(x.shape[1], dtype=dtype, device=x.device) for _ in range(2))
    elif by_kernels(x):
        from topk_plugin.ops.kernels import conditional_batch_norm_triton as kernels

        mean, variance = kernels.batch_statistics(dense(x))
    else:
        # Running statistics that nobody reads: their dtype becomes that of the result.
        unused = torch.zeros(x.shape[1], dtype=dtype, device=x.device)
        mean, variance = torch.batch_norm_update_stats(dense(x), unused, unused, 0.0)
    count = torch.full((), float(values), dtype=dtype, device=x.device)
    if group_name:
        return _joined(mean, variance, count, group_of(group_name))
    return mean, variance, count


def _fake_batch_statistics(x: Tensor, group_name: str) -> tuple[Tensor, Tensor, Tensor]:
    mean, variance = (x.new_empty(x.shape[1], dtype=wide_dtype(x)) for _ in range(2))
    return mean, variance, x.new_empty((), dtype=wide_dtype(x))


torch.library.register_fake("topk_plugin::batch_statistics", _fake_batch_statistics)


def _joined(
    mean: Tensor, variance: Tensor, count: Tensor, group: dist.ProcessGroup
) -> tuple[Tensor, Tensor, Tensor]:
    """Statistics of the union of all processes' batches, without cancellation."""
    own = torch.cat([mean, variance, count.view(1)])
    gathered = [torch.empty_like(own) for _ in range(dist.get_world_size(group))]
    dist.all_gather(gathered, own, group=group)
    means, variances, counts = torch.stack(gathered).split([len(mean), len(mean), 1], dim=1)
    total = counts.sum()
    shares = counts / total
    mean = (means * shares).sum(0)
    variance = ((variances + (means - mean).square()) * shares).sum(0)
    return mean, variance, total
