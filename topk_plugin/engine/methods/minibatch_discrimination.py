"""Minibatch discrimination (Salimans et al. 2016, arXiv 1606.03498, section 3.2).

The critic's last layers see, beside a sample's features h, how close the sample is to the others
of its batch::

    M_i = h_i W,  W of shape [features, kernels, dimensions]
    o_i,k = sum over j != i of exp(-|M_i,k - M_j,k|_1) + b_k

W is a direction with a learnt length for each kernel, as in the authors' code for CIFAR-10 (100
kernels of 5 dimensions, b starting at -1); their start that depends on data is left out, and W
starts with columns of length 1. Real and generated batches are compared with themselves alone.

A critic that mixes rows: under top-k training no gradient reaches a dropped sample, but its
features still stand in the sums of the kept ones. The batch is part of the function: scores are
those of the training's batch size, with accumulation of the micro-batch. Time grows with the batch
squared.
"""

from typing import Any, Final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from topk_plugin.engine.keys.key import Key, When, switch
from topk_plugin.engine.keys.rules import Whole
from topk_plugin.engine.methods.method import Method
from topk_plugin.engine.networks.layers import Layers
from topk_plugin.engine.networks.scoring import Outputs, WrappingHead
from topk_plugin.gate import ranks


class MinibatchFeatures(nn.Module):
    """Closeness of every sample to the others of its batch, over all processes.

    Args:
        features: length of h.
        kernels: features that are made.
        dimensions: of the space of each.
    """

    def __init__(self, features: int, kernels: int, dimensions: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(features, kernels, dimensions) * 0.05)
        self.log_length = nn.Parameter(torch.zeros(kernels, dimensions))
        self.bias = nn.Parameter(torch.full((kernels,), -1.0))

    def forward(self, h: Tensor) -> Tensor:
        """Features [N, D], half precisions raised to fp32, to closeness [N, kernels]."""
        h = h.to(torch.promote_types(h.dtype, torch.float32))
        with torch.autocast(h.device.type, enabled=False):
            weight = F.normalize(self.weight, dim=0) * self.log_length.exp()
            projected = torch.einsum("nd,dke->nke", h, weight)
            joined = ranks.gather_rows(projected)
            distances = (projected[:, None] - joined[None]).abs().sum(3)  # [N, all, kernels]
            others = ranks.own_part(~torch.eye(len(joined), dtype=torch.bool, device=h.device))
            return ((-distances).exp() * others[..., None]).sum(1) + self.bias


class MinibatchHead(WrappingHead):
    """``head`` behind features and minibatch features."""

    def add_layers(self, critic: Any, features: int, layers: Layers) -> None:
        loss = self.settings.LOSS
        kernels, dimensions = loss.minibatch_kernels, loss.minibatch_dimensions
        critic.minibatch = MinibatchFeatures(features, kernels, dimensions)
        self.head.add_layers(critic, features + kernels, layers)

    def outputs(self, critic: Any, h: Tensor, labels: Tensor) -> Outputs:
        both = torch.cat([h, critic.minibatch(h).to(h.dtype)], dim=1)
        outputs = self.head.outputs(critic, both, labels)
        # feature matching and the like go on comparing a sample's own features
        return outputs | {"h": h}


MINIBATCH_DISCRIMINATION: Final = Method(
    "minibatch discrimination",
    on=When("LOSS", "apply_minibatch"),
    keys=(
        switch("LOSS", "apply_minibatch", ours=True),
        Key("LOSS", "minibatch_kernels", 100, Whole(1), ours=True),
        Key("LOSS", "minibatch_dimensions", 5, Whole(1), ours=True),
    ),
    change_head=MinibatchHead,
)
