"""Virtual batch normalisation: by a reference batch and the sample itself (arXiv 1606.03498)."""

from typing import Any

import torch
from torch import Tensor, nn

from topk_plugin.engine.networks.conditional_norm import ConditionalBatchNorm2d

EPS = 1e-5


class VirtualBatchNorm2d(nn.Module):
    """In the place of a batch normalisation (Salimans et al. 2016, section 3.5, and its code).

    The first ``rows`` rows of a batch are the reference. With their mean m and mean square q over
    rows and positions, and m', q' of a further row over its own positions, that row is normalised
    by m' / (rows + 1) + m rows / (rows + 1), the mean squares alike; reference rows by m and q.

    Args:
        replaced: whose gain and bias are kept: predicted from a condition, or learnt (then the
            gain starts at N(1, 0.02), as in the authors' code).
        rows: of the reference.
    """

    def __init__(self, replaced: nn.BatchNorm2d | ConditionalBatchNorm2d, rows: int) -> None:
        super().__init__()
        self.rows = rows
        self.gain: nn.Module | None = None
        self.bias: Any  # a layer beside a gain, else a parameter
        if isinstance(replaced, ConditionalBatchNorm2d):
            self.gain, self.bias = replaced.gain, replaced.bias
        else:
            features = replaced.num_features
            self.weight = nn.Parameter(1 + 0.02 * torch.randn(features))
            self.bias = nn.Parameter(torch.zeros(features))

    def forward(self, x: Tensor, condition: Tensor | None = None) -> Tensor:
        """Normalise ``x`` [rows + N, C, H, W], and its ``condition`` where there is one."""
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        with torch.autocast(x.device.type, enabled=False):
            own = torch.stack([wide.mean((2, 3)), wide.square().mean((2, 3))])  # [2, rows + N, C]
            reference = own[:, : self.rows].mean(1, keepdim=True)
            live = own[:, self.rows :].lerp(reference, self.rows / (self.rows + 1))
            mean, square = torch.cat([reference.expand(-1, self.rows, -1), live], dim=1)
            scale = (square - mean.square()).clamp_min(0).add(EPS).rsqrt()
        if self.gain is None:
            gain, bias = self.weight, self.bias
        else:
            gain, bias = 1 + self.gain(condition).to(wide.dtype), self.bias(condition)
        scale = scale * gain
        shift = bias - mean * scale
        return (wide * scale[:, :, None, None] + shift[:, :, None, None]).to(x.dtype)


def replace_batch_norms(network: nn.Module, rows: int) -> int:
    """Make every batch normalisation of ``network`` a virtual one; returns how many there were."""
    count = 0
    for name, child in network.named_children():
        if isinstance(child, nn.BatchNorm2d | ConditionalBatchNorm2d):
            setattr(network, name, VirtualBatchNorm2d(child, rows))
            count += 1
        else:
            count += replace_batch_norms(child, rows)
    return count


def with_reference(network: nn.Module, inputs: Tensor, labels: Tensor) -> None:
    """Let reference rows pass ``network`` in front of every batch.

    They become its buffers ``reference`` and ``reference_labels``. What becomes of them at the end
    is the caller's affair.

    Args:
        network: takes a tensor and labels.
        inputs: [rows, ...].
        labels: int64 [rows].
    """
    network.register_buffer("reference", inputs)
    network.register_buffer("reference_labels", labels)
    network.register_forward_pre_hook(_reference_first)


def _reference_first(network: Any, args: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    inputs, labels = args
    return (
        torch.cat([network.reference.to(inputs.dtype), inputs]),
        torch.cat([network.reference_labels, labels]),
    )
