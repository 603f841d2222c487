"""The generator of SNGAN, SAGAN and WGAN-GP for 32, 64 and 128 pixels, in StudioGAN's naming."""

from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from topk_plugin.engine.networks.big_resnet_generator import BOTTOM_SIZE, WIDTHS
from topk_plugin.engine.networks.generator_block import GeneratorBlock
from topk_plugin.engine.networks.initialization import initialize
from topk_plugin.engine.networks.layers import Layers, activation, batch_norm
from topk_plugin.engine.networks.self_attention import SelfAttention
from topk_plugin.engine.networks.stack import in_order, stack


class ResnetGenerator(nn.Module):
    """Latent vectors and labels to images (Miyato et al. 2018, arXiv 1802.05957).

    Parameter and buffer names, shapes and order, and the values computed from them, are those of
    StudioGAN's ``resnet`` generator. The whole latent vector makes the 4 x 4 start; the condition
    of every block is the label as a one-hot vector.

    Args:
        z_dim: length of the latent vector.
        img_size: 32, 64 or 128 pixels.
        num_classes: labels are 0 .. num_classes - 1; None for an unconditional generator.
        conv_dim: unit of the channel counts.
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
        img_size: int,
        num_classes: int | None,
        conv_dim: int,
        spectral: bool,
        attention_after: Sequence[int],
        activation_name: str,
        init: str,
    ) -> None:
        super().__init__()
        if img_size not in WIDTHS:
            raise ValueError(f"img_size is {img_size}; allowed: {', '.join(map(str, WIDTHS))}")
        channels = [conv_dim * width for width in WIDTHS[img_size]]
        self.num_classes = num_classes
        self.start_channels = channels[0]
        layers = Layers(spectral)

        # Modules are made in StudioGAN's order: state_dict keeps it, and so do random draws.
        self.linear0 = layers.linear(z_dim, channels[0] * BOTTOM_SIZE**2)
        blocks = (
            (GeneratorBlock(fan_in, fan_out, num_classes, activation_name, layers), fan_out)
            for fan_in, fan_out in pairwise(channels)
        )
        self.blocks = stack(blocks, attention_after, layers)
        self.bn4 = batch_norm(channels[-1])
        self.activation = activation(activation_name)
        self.conv2d5 = layers.conv2d(channels[-1], 3, 3)
        initialize(self, init)

    def forward(self, z: Tensor, labels: Tensor) -> Tensor:
        """Generate images.

        Args:
            z: float [N, z_dim].
            labels: int64 [N]; not used by an unconditional generator.

        Returns:
            Images [N, 3, img_size, img_size] in (-1, 1).
        """
        condition = one_hot(labels, self.num_classes, z.dtype)
        h = self.linear0(z).view(-1, self.start_channels, BOTTOM_SIZE, BOTTOM_SIZE)
        for block in in_order(self.blocks):
            h = block(h) if isinstance(block, SelfAttention) else block(h, condition)
        return torch.tanh(self.conv2d5(self.activation(self.bn4(h))))


def one_hot(labels: Tensor, num_classes: int | None, dtype: torch.dtype) -> Tensor | None:
    """``labels`` [N] as rows with a single 1 [N, num_classes]; None without classes."""
    return None if num_classes is None else F.one_hot(labels, num_classes).to(dtype)
