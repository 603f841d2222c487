"""The small classifier whose features replace Inception's when Inception is not at hand."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

WIDTHS = (32, 64, 128, 128)
GRID = 16
"""Side of the grid of patches on which the first convolution works."""


class SmallClassifier(nn.Module):
    """Four 3x3 convolutions with batch norm on a 16x16 grid of pixel patches.

    Folding the pixels of a patch into channels keeps every detail of a large image, at the price
    of a wider first layer only: the cost hardly grows with the image's size.

    Args:
        image_size: side S of the images in pixels. If it is no multiple of 16, images are resized
            to the next lower one (at least 16).
        n_outputs: how many logits.
    """

    def __init__(self, image_size: int, n_outputs: int) -> None:
        super().__init__()
        self.patch = max(1, image_size // GRID)
        self.blocks = nn.ModuleList()
        channels = 3 * self.patch**2
        for width in WIDTHS:
            self.blocks.append(
                nn.Sequential(
                    nn.Conv2d(channels, width, 3, padding=1, bias=False),
                    nn.BatchNorm2d(width),
                    nn.ReLU(inplace=True),
                )
            )
            channels = width
        self.head = nn.Linear(channels, n_outputs)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """uint8 [N, 3, S, S] -> penultimate features [N, 128] and logits [N, n_outputs]."""
        x = images.float() / 127.5 - 1
        side = self.patch * GRID
        if x.shape[2:] != (side, side):
            x = F.interpolate(x, size=(side, side), mode="bilinear", antialias=True)
        x = F.pixel_unshuffle(x, self.patch).contiguous(memory_format=torch.channels_last)
        for index, block in enumerate(self.blocks):
            x = block(x)
            if index in (1, 2):
                x = F.max_pool2d(x, 2)
        features = x.mean(dim=(2, 3))
        return features, self.head(features)
