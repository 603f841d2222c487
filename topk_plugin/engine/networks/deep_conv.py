"""The backbone ``deep_conv``: DCGAN's generator and critic for 32 pixels, in StudioGAN's naming."""

from collections.abc import Sequence
from itertools import pairwise
from typing import cast

import torch
from torch import Tensor, nn

from topk_plugin.base.errors import UserError
from topk_plugin.engine.keys.settings import Settings
from topk_plugin.engine.networks.backbone import Backbone, critic_arguments, generator_arguments
from topk_plugin.engine.networks.big_resnet_generator import BOTTOM_SIZE
from topk_plugin.engine.networks.generator_block import activated, conditional_batch_norm
from topk_plugin.engine.networks.initialization import initialize
from topk_plugin.engine.networks.layers import Layers, activation, batch_norm
from topk_plugin.engine.networks.resnet_generator import one_hot
from topk_plugin.engine.networks.scoring import Head, Outputs, ScoringNetwork
from topk_plugin.engine.networks.self_attention import SelfAttention
from topk_plugin.engine.networks.stack import in_order, stack

IMG_SIZE = 32
# StudioGAN's backbone has no unit of width: g_conv_dim and d_conv_dim do nothing.
GENERATOR_CHANNELS = (512, 256, 128, 64)
CRITIC_CHANNELS = (3, 64, 128, 256, 512)


class DeconvBlock(nn.Module):
    """A transposed convolution that doubles height and width."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        condition_dim: int | None,
        activation_name: str,
        layers: Layers,
    ) -> None:
        super().__init__()
        self.deconv0 = layers.conv_transpose2d(in_channels, out_channels)
        self.bn0 = conditional_batch_norm(condition_dim, out_channels, layers)
        self.activation = activation(activation_name)

    def forward(self, x: Tensor, condition: Tensor | None) -> Tensor:
        """Map ``x`` [N, in, H, W], ``condition`` [N, condition_dim] to [N, out, 2H, 2W]."""
        return activated(self.bn0, self.activation, self.deconv0(x), condition)


class DeepConvGenerator(nn.Module):
    """Latent vectors and labels to images (DCGAN, Radford et al. 2016, arXiv 1511.06434).

    Parameter and buffer names, shapes and order, and the values computed from them, are those of
    StudioGAN's ``deep_conv`` generator, whose widths are fixed.

    Args:
        z_dim: length of the latent vector.
        num_classes: labels are 0 .. num_classes - 1; None for an unconditional generator.
        spectral: spectral normalisation of every layer.
        attention_after: self-attention follows these blocks, counted from 1.
        activation_name: see :data:`~topk_plugin.engine.networks.layers.ACTIVATIONS`.
        init: see :data:`~topk_plugin.engine.networks.initialization.INITIALIZATIONS`.

    Raises:
        ValueError: an argument outside of what is allowed.
    """

    def __init__(
        self,
        *,
        z_dim: int,
        num_classes: int | None,
        spectral: bool,
        attention_after: Sequence[int],
        activation_name: str,
        init: str,
    ) -> None:
        super().__init__()
        channels = GENERATOR_CHANNELS
        self.num_classes = num_classes
        layers = Layers(spectral)

        # Modules are made in StudioGAN's order: state_dict keeps it, and so do random draws.
        self.linear0 = layers.linear(z_dim, channels[0] * BOTTOM_SIZE**2)
        blocks = (
            (DeconvBlock(fan_in, fan_out, num_classes, activation_name, layers), fan_out)
            for fan_in, fan_out in pairwise(channels)
        )
        self.blocks = stack(blocks, attention_after, layers)
        self.conv4 = layers.conv2d(channels[-1], 3, 3)
        initialize(self, init)

    def forward(self, z: Tensor, labels: Tensor) -> Tensor:
        """Generate images.

        Args:
            z: float [N, z_dim].
            labels: int64 [N]; not used by an unconditional generator.

        Returns:
            Images [N, 3, 32, 32] in (-1, 1).
        """
        condition = one_hot(labels, self.num_classes, z.dtype)
        h = self.linear0(z).view(-1, GENERATOR_CHANNELS[0], BOTTOM_SIZE, BOTTOM_SIZE)
        for block in in_order(self.blocks):
            h = block(h) if isinstance(block, SelfAttention) else block(h, condition)
        return torch.tanh(self.conv4(h))


class StridedBlock(nn.Module):
    """Two convolutions, the second of which halves height and width."""

    def __init__(
        self, in_channels: int, out_channels: int, activation_name: str, layers: Layers
    ) -> None:
        super().__init__()
        self.conv0 = layers.conv2d(in_channels, out_channels, 3)
        self.conv1 = layers.halving_conv2d(out_channels, out_channels)
        # Batch normalisation only where spectral normalisation is off, as in StudioGAN.
        self.bn0 = nn.Identity() if layers.spectral else batch_norm(out_channels)
        self.bn1 = nn.Identity() if layers.spectral else batch_norm(out_channels)
        self.activation = activation(activation_name)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``x`` [N, in, H, W] to [N, out, H/2, W/2]."""
        h = self.activation(self.bn0(self.conv0(x)))
        return cast(Tensor, self.activation(self.bn1(self.conv1(h))))


class DeepConvCritic(ScoringNetwork):
    """Images and labels to scores, with StudioGAN's ``deep_conv`` names, shapes and values.

    Args:
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
        head: Head,
        spectral: bool,
        attention_after: Sequence[int],
        activation_name: str,
        init: str,
    ) -> None:
        super().__init__(head)
        *channels, last = CRITIC_CHANNELS
        layers = Layers(spectral)

        # Modules are made in StudioGAN's order: state_dict keeps it, and so do random draws.
        blocks = (
            (StridedBlock(fan_in, fan_out, activation_name, layers), fan_out)
            for fan_in, fan_out in pairwise(channels)
        )
        self.blocks = stack(blocks, attention_after, layers)
        self.activation = activation(activation_name)
        self.conv1 = layers.conv2d(channels[-1], last, 3)
        self.bn1 = nn.Identity() if spectral else batch_norm(last)
        self.add_scoring_layers(last, layers)
        initialize(self, init)

    def forward(self, images: Tensor, labels: Tensor) -> Outputs:
        """Score images.

        Args:
            images: float [N, 3, 32, 32] in [-1, 1].
            labels: int64 [N]; not used by heads without classes.

        Returns:
            See :meth:`~topk_plugin.engine.networks.scoring.Head.outputs`; "h" are
            activations summed over positions.
        """
        h = images
        for block in in_order(self.blocks):
            h = block(h)
        h = self.activation(self.bn1(self.conv1(h))).sum(dim=(2, 3))
        return self.score(h, labels)


def _check(settings: Settings) -> None:
    if settings.DATA.img_size != IMG_SIZE:
        raise UserError(
            f"DATA.img_size is {settings.DATA.img_size}; MODEL.backbone 'deep_conv' makes images "
            f"of {IMG_SIZE} only"
        )
    for name in ("g_conv_dim", "d_conv_dim"):
        width = getattr(settings.MODEL, name)
        if width is not None:
            raise UserError(
                f"MODEL.{name} is {width} (64 where it is left out), but the widths of "
                "MODEL.backbone 'deep_conv' are fixed; set it to 'N/A', or choose 'resnet' or "
                "'big_resnet'"
            )


def _check_size(settings: Settings) -> None:
    if settings.DATA.img_size != IMG_SIZE:
        raise ValueError(
            f"img_size is {settings.DATA.img_size}; allowed with deep_conv: {IMG_SIZE}"
        )


def _generator(settings: Settings) -> nn.Module:
    _check_size(settings)
    return DeepConvGenerator(**generator_arguments(settings))


def _critic(settings: Settings, head: Head) -> nn.Module:
    _check_size(settings)
    return DeepConvCritic(head=head, **critic_arguments(settings))


def _blocks(img_size: int) -> tuple[int, int]:
    return len(GENERATOR_CHANNELS) - 1, len(CRITIC_CHANNELS) - 2


DEEP_CONV = Backbone("deep_conv", _generator, _critic, _blocks, check=_check)
