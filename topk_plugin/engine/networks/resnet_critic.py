"""The residual critic for 32, 64 and 128 pixels, in StudioGAN's naming."""

from collections.abc import Sequence
from itertools import pairwise

import torch.nn.functional as F
from torch import Tensor, nn

from topk_plugin.engine.networks.initialization import initialize
from topk_plugin.engine.networks.layers import Layers, activation, batch_norm
from topk_plugin.engine.networks.scoring import Head, Outputs, ScoringNetwork
from topk_plugin.engine.networks.stack import in_order, stack

# Per image size: channels out of each block in units of d_conv_dim, and how many of the blocks,
# from the first, halve height and width.
WIDTHS = {
    32: (2, 2, 2, 2),
    64: (1, 2, 4, 8, 16),
    128: (1, 2, 4, 8, 16, 16),
}
HALVING_BLOCKS = {32: 2, 64: 4, 128: 5}


class FirstBlock(nn.Module):
    """The residual block on the image itself: no activation before its first convolution."""

    def __init__(
        self, in_channels: int, out_channels: int, activation_name: str, layers: Layers
    ) -> None:
        super().__init__()
        self.conv2d0 = layers.conv2d(in_channels, out_channels, 1)
        self.conv2d1 = layers.conv2d(in_channels, out_channels, 3)
        self.conv2d2 = layers.conv2d_avg_pool(out_channels, out_channels)
        # Batch normalisation only where spectral normalisation is off, as in StudioGAN.
        self.bn0 = nn.Identity() if layers.spectral else batch_norm(in_channels)
        self.bn1 = nn.Identity() if layers.spectral else batch_norm(out_channels)
        self.activation = activation(activation_name)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``x`` [N, in, H, W] to [N, out, H/2, W/2]."""
        h = self.conv2d2(self.activation(self.bn1(self.conv2d1(x))))
        return h + self.conv2d0(self.bn0(F.avg_pool2d(x, 2)))


class CriticBlock(nn.Module):
    """A residual block that may halve height and width."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        activation_name: str,
        layers: Layers,
        *,
        halve: bool,
    ) -> None:
        super().__init__()
        self.halve = halve
        self.activation = activation(activation_name)
        # In StudioGAN these activations work in place, directly on the block's input unless batch
        # normalisation stands between; its skip path then starts from the activated input.
        self.skip_activated = layers.spectral and not isinstance(self.activation, nn.GELU)
        self.project_skip = halve or in_channels != out_channels
        if self.project_skip:
            self.conv2d0 = layers.conv2d(in_channels, out_channels, 1)
            self.bn0 = nn.Identity() if layers.spectral else batch_norm(in_channels)
        self.conv2d1 = layers.conv2d(in_channels, out_channels, 3)
        self.conv2d2 = (
            layers.conv2d_avg_pool(out_channels, out_channels)
            if halve
            else layers.conv2d(out_channels, out_channels, 3)
        )
        self.bn1 = nn.Identity() if layers.spectral else batch_norm(in_channels)
        self.bn2 = nn.Identity() if layers.spectral else batch_norm(out_channels)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``x`` [N, in, H, W] to [N, out, H, W], or [N, out, H/2, W/2] when halving."""
        activated = self.activation(self.bn1(x))
        h = self.conv2d2(self.activation(self.bn2(self.conv2d1(activated))))
        skip = activated if self.skip_activated else x
        if self.project_skip:
            skip = self.bn0(skip)
            # A 1x1 convolution commutes with pooling and costs a quarter after it.
            skip = self.conv2d0(F.avg_pool2d(skip, 2) if self.halve else skip)
        return h + skip


class ResnetCritic(ScoringNetwork):
    """Images and labels to scores (SNGAN, arXiv 1802.05957; BigGAN, arXiv 1809.11096).

    Parameter and buffer names, shapes and order, and the values computed from them, are those of
    StudioGAN's ``resnet`` and ``big_resnet`` discriminators, which are one network.

    Args:
        img_size: 32, 64 or 128 pixels.
        conv_dim: unit of the channel counts.
        head: the last layers.
        spectral: spectral normalisation of every layer; batch normalisation where it is off.
        attention_after: self-attention follows these blocks, counted from 1.
        activation_name: see :data:`~topk_plugin.engine.networks.layers.ACTIVATIONS`.
        init: see :data:`~topk_plugin.engine.networks.initialization.INITIALIZATIONS`.

    Raises:
        ValueError: an argument outside of what is allowed.
    """

    def __init__(
        self,
        *,
        img_size: int,
        conv_dim: int,
        head: Head,
        spectral: bool,
        attention_after: Sequence[int],
        activation_name: str,
        init: str,
    ) -> None:
        super().__init__(head)
        if img_size not in WIDTHS:
            raise ValueError(f"img_size is {img_size}; allowed: {', '.join(map(str, WIDTHS))}")
        channels = [3] + [conv_dim * width for width in WIDTHS[img_size]]
        layers = Layers(spectral)

        # Modules are made in StudioGAN's order: state_dict keeps it, and so do random draws.
        def block(number: int, fan_in: int, fan_out: int) -> nn.Module:
            if number == 1:
                return FirstBlock(fan_in, fan_out, activation_name, layers)
            halve = number <= HALVING_BLOCKS[img_size]
            return CriticBlock(fan_in, fan_out, activation_name, layers, halve=halve)

        blocks = (
            (block(number, fan_in, fan_out), fan_out)
            for number, (fan_in, fan_out) in enumerate(pairwise(channels), 1)
        )
        self.blocks = stack(blocks, attention_after, layers)
        self.activation = activation(activation_name)
        self.add_scoring_layers(channels[-1], layers)
        initialize(self, init)

    def forward(self, images: Tensor, labels: Tensor) -> Outputs:
        """Score images.

        Args:
            images: float [N, 3, img_size, img_size] in [-1, 1].
            labels: int64 [N]; not used by heads without classes.

        Returns:
            See :meth:`~topk_plugin.engine.networks.scoring.Head.outputs`; "h" are
            activations summed over positions.
        """
        h = images
        for block in in_order(self.blocks):
            h = block(h)
        return self.score(self.activation(h).sum(dim=(2, 3)), labels)
