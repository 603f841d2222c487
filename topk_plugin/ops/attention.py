"""BigGAN's self-attention over image positions, without scaling of the products."""

import torch
import torch.nn.functional as F
from torch import Tensor

from topk_plugin.ops.dispatch import implementation


def self_attention_2d(
    query: Tensor, key: Tensor, value: Tensor, *, twice_differentiable: bool = False
) -> Tensor:
    """Mix the values of all positions, for every query: ``value softmax(query' key)'``.

    On a GPU, torch's scaled_dot_product_attention with scale 1: its fused kernels never write the
    map of queries times positions, which is the largest tensor of the block. On a CPU it has no
    fused kernel for values that are longer than keys and is slower than the plain products; there
    the products are ordered so that channels-last inputs give a channels-last result.

    Args:
        query: floating-point [N, channels, queries]; a flattened image of queries.
        key: [N, channels, positions].
        value: [N, value_channels, positions].
        twice_differentiable: a gradient of a gradient will be asked for (gradient penalties).
            The fused kernels have none, so they are left out.

    Returns:
        [N, value_channels, queries].

    Raises:
        ValueError: the shapes don't fit together.
    """
    fits = (
        query.dim() == key.dim() == value.dim() == 3
        and query.shape[0] == key.shape[0] == value.shape[0]
        and query.shape[1] == key.shape[1]
        and key.shape[2] == value.shape[2]
    )
    if not fits:
        raise ValueError(
            f"query {list(query.shape)}, key {list(key.shape)} and value {list(value.shape)} do "
            "not fit; allowed: [N, C, queries], [N, C, positions] and [N, D, positions]"
        )
    return torch.ops.topk_plugin.self_attention_2d(query, key, value, twice_differentiable)


def self_attention_2d_reference(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """What :func:`self_attention_2d` computes, as the formula is written."""
    attention = torch.softmax(torch.bmm(query.transpose(1, 2), key), dim=-1)
    return torch.bmm(value, attention.transpose(1, 2))


torch.library.define(
    "topk_plugin::self_attention_2d",
    "(Tensor query, Tensor key, Tensor value, bool twice_differentiable=False) -> Tensor",
    tags=(torch.Tag.pt2_compliant_tag,),
)


@torch.library.impl("topk_plugin::self_attention_2d", "CompositeImplicitAutograd")
def _self_attention_2d(
    query: Tensor, key: Tensor, value: Tensor, twice_differentiable: bool = False
) -> Tensor:
    chosen = implementation("self_attention_2d", query.device)
    if chosen == "reference":
        return self_attention_2d_reference(query, key, value)
    if chosen == "fused" and not twice_differentiable:
        return _by_fused_attention(query, key, value)
    return _by_products(query, key, value)


def _by_products(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    if value.stride(1) != 1:
        return self_attention_2d_reference(query, key, value)
    # Channels innermost, as channels-last images have them: the result gets them innermost too,
    # and the convolution that follows need not move them.
    attention = torch.softmax(torch.bmm(query.transpose(1, 2), key), dim=-1)
    return torch.bmm(attention, value.transpose(1, 2)).transpose(1, 2)


def _by_fused_attention(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    # [N, one head, positions, channels]: the fused kernels take four dimensions only
    q, k, v = (x.transpose(1, 2).unsqueeze(1) for x in (query, key, value))
    return F.scaled_dot_product_attention(q, k, v, scale=1.0).squeeze(1).transpose(1, 2)
