"""The critic of Projected GAN: small critics on mixed features of a frozen ImageNet network."""

import math
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from topk_plugin.engine.networks.layers import Layers
from topk_plugin.engine.networks.scoring import Outputs
from topk_plugin.evaluation.efficientnet_lite0 import EfficientNetLite0

DEPTHS = (24, 40, 112, 320)
"""Channels of the feature maps, at 1/4, 1/8, 1/16 and 1/32 of the input's side."""
WIDTH = 64
"""The paper's unit of width, in channels."""
SIZE, SMALLEST_FULL_SIZE = 224, 128
EMBEDDING, MAPS = 128, 64
SLOPE = 0.2
LOGITS = "projected_logits"


class Mixing(nn.Module):
    """Random features of features, never trained (Sauer et al. 2021, section 3.2).

    Across channels, a 1x1 convolution of each map; across scales, from the deepest map up, the sum
    with the map of the next depth, doubled in height and width, and a 1x1 convolution.

    Args:
        width: channels of the two finest results; the others have 2 and 4 times as many.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        inside = [width, 2 * width, 4 * width, 8 * width]
        outside = [width, width, 2 * width, 4 * width]
        self.channels = nn.ModuleList(map(_one_by_one, DEPTHS, inside))
        self.scales = nn.ModuleList(map(_one_by_one, inside, outside))
        self.requires_grad_(False)

    def forward(self, maps: tuple[Tensor, ...]) -> list[Tensor]:
        """Feature maps at four depths to mixed maps of twice their sides, finest first."""
        found: list[Tensor] = []
        below: Tensor | None = None
        for features, channels, scales in zip(
            reversed(maps), reversed(self.channels), reversed(self.scales), strict=True
        ):
            mixed = channels(features)
            if below is not None:
                mixed = mixed + below
            # A 1x1 convolution commutes with the interpolation and costs a quarter before it.
            below = F.interpolate(
                scales(mixed), scale_factor=2.0, mode="bilinear", align_corners=True
            )
            found.insert(0, below)
        return found


def _one_by_one(channels: int, out: int) -> nn.Conv2d:
    return nn.Conv2d(channels, out, 1)


class ScaleCritic(nn.Module):
    """The critic of one scale: halving convolutions, then one logit for each 4x4 window.

    Args:
        channels: into the first block, then out of each.
        num_classes: labels are 0 .. num_classes - 1, by projection; None for no labels.
        layers: makes the convolutions.
    """

    def __init__(self, channels: list[int], num_classes: int | None, layers: Layers) -> None:
        super().__init__()
        self.blocks = nn.Sequential(
            *(
                nn.Sequential(
                    layers.halving_conv2d(fan_in, fan_out),
                    nn.BatchNorm2d(fan_out),
                    nn.LeakyReLU(SLOPE),
                )
                for fan_in, fan_out in pairwise(channels)
            )
        )
        self.score = layers.window_conv2d(channels[-1], 1 if num_classes is None else MAPS)
        self.embedding = self.project = None
        if num_classes is not None:
            self.embedding = nn.Embedding(num_classes, EMBEDDING)
            self.project = nn.Sequential(nn.Linear(EMBEDDING, MAPS), nn.LeakyReLU(SLOPE))

    def forward(self, features: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Maps [N, C, S, S] to the last block's means over positions [N, C'] and logits [N, L]."""
        features = self.blocks(features)
        maps = self.score(features).flatten(2)
        if self.embedding is not None and self.project is not None:
            maps = maps * self.project(self.embedding(labels))[:, :, None] / math.sqrt(MAPS)
        return features.mean((2, 3)), maps.sum(1)


class ProjectedCritic(nn.Module):
    """Images and labels to scores (Projected GAN, Sauer et al. 2021, arXiv 2111.01007).

    The feature network is no submodule: its weights are in no state_dict and no optimiser, and
    ``train`` and ``requires_grad_`` don't reach it. Device, precision and memory format follow the
    critic's. Batch normalisation in the four critics mixes the rows of a batch.

    Below 128 pixels each critic has one block less than the paper's, since the deepest map would be
    smaller than the last convolution's window.

    Args:
        features: the frozen network, in evaluation mode.
        size: pixels a side of what it sees, a multiple of 32 of at least 64; images are no larger,
            and smaller ones are up-sampled (bilinear).
        width: unit of the channel counts, 64 in the paper.
        num_classes: labels are 0 .. num_classes - 1, by projection; None for no labels.
        spectral: spectral normalisation of the critics' convolutions.
    """

    features: EfficientNetLite0

    def __init__(
        self,
        *,
        features: EfficientNetLite0,
        size: int,
        width: int,
        num_classes: int | None,
        spectral: bool,
    ) -> None:
        super().__init__()
        object.__setattr__(self, "features", features)
        self.size = size
        self.mixing = Mixing(width)
        layers = Layers(spectral)
        # Channels at 1/2, 1/4, 1/8, 1/16 and 1/32 of the input's side. Every critic ends at 1/32.
        channels = [width, width, 2 * width, 4 * width, 8 * width]
        if size < SMALLEST_FULL_SIZE:
            channels.pop()
        self.critics = nn.ModuleList(
            ScaleCritic(channels[depth:], num_classes, layers) for depth in range(len(DEPTHS))
        )

    def _apply(self, fn: Callable[..., Any], recurse: bool = True) -> "ProjectedCritic":
        self.features._apply(fn, recurse)
        super()._apply(fn, recurse)
        return self

    def forward(self, images: Tensor, labels: Tensor) -> Outputs:
        """Score images.

        Args:
            images: float [N, 3, S, S] in [-1, 1].
            labels: int64 [N]; not used by critics without classes.

        Returns:
            "adv_output" [N], the mean of all logits; "projected_logits" [N, L], all logits, those
            of the finest scale first; "h", the four critics' mean features, concatenated; and
            "label" [N], the labels given.
        """
        if images.shape[2] < self.size:
            images = F.interpolate(
                images, size=(self.size, self.size), mode="bilinear", align_corners=False
            )
        mixed = self.mixing(self.features.maps(images))
        looks = [critic(maps, labels) for critic, maps in zip(self.critics, mixed, strict=True)]
        logits = torch.cat([logits for _, logits in looks], dim=1)
        h = torch.cat([features for features, _ in looks], dim=1)
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))  # no ties by rounding
        return {"h": h, "adv_output": logits.mean(1), "label": labels, LOGITS: logits}
