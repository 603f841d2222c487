"""BigGAN's generator for 32, 64 and 128 pixels, in StudioGAN's naming."""

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from topk_plugin.engine.networks.generator_block import GeneratorBlock
from topk_plugin.engine.networks.initialization import initialize
from topk_plugin.engine.networks.layers import Layers, activation, batch_norm
from topk_plugin.engine.networks.self_attention import SelfAttention
from topk_plugin.engine.networks.stack import in_order, stack

BOTTOM_SIZE = 4

# Per image size: channels into the first block, then out of each block, in units of g_conv_dim.
WIDTHS = {
    32: (4, 4, 4, 4),
    64: (16, 8, 4, 2, 1),
    128: (16, 16, 8, 4, 2, 1),
}


class BigResnetGenerator(nn.Module):
    """Latent vectors and labels to images (BigGAN, Brock et al. 2019, arXiv 1809.11096).

    Parameter and buffer names, shapes and order, and the values computed from them, are those of
    StudioGAN's ``big_resnet`` generator. The latent vector is split: the first part makes the
    4 x 4 start, each further part joins the class embedding as the condition of one block.

    Args:
        z_dim: length of the latent vector; divisible by the number of blocks plus one
            (blocks: 3 at 32 px, 4 at 64, 5 at 128).
        img_size: 32, 64 or 128 pixels.
        num_classes: labels are 0 .. num_classes - 1.
        conv_dim: unit of the channel counts.
        shared_dim: length of the class embedding; None for an unconditional generator.
        spectral: spectral normalisation of every layer but the class embedding.
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
        num_classes: int,
        conv_dim: int,
        shared_dim: int | None,
        spectral: bool,
        attention_after: Sequence[int],
        activation_name: str,
        init: str,
    ) -> None:
        super().__init__()
        if img_size not in WIDTHS:
            raise ValueError(f"img_size is {img_size}; allowed: {', '.join(map(str, WIDTHS))}")
        channels = [conv_dim * width for width in WIDTHS[img_size]]
        parts = len(channels)
        if z_dim % parts:
            raise ValueError(f"z_dim is {z_dim}; at img_size {img_size} it must divide by {parts}")
        self.z_dim = z_dim
        self.chunk_size = z_dim // parts
        self.start_channels = channels[0]
        condition_dim = self.chunk_size + (shared_dim or 0)
        layers = Layers(spectral)

        # Modules are made in StudioGAN's order: state_dict keeps it, and so do random draws.
        self.linear0 = layers.linear(self.chunk_size, channels[0] * BOTTOM_SIZE**2)
        self.shared = None if shared_dim is None else nn.Embedding(num_classes, shared_dim)
        blocks = (
            (GeneratorBlock(fan_in, fan_out, condition_dim, activation_name, layers), fan_out)
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
        start, *conditions = z.split(self.chunk_size, dim=1)
        if self.shared is not None:
            embedded = self.shared(labels)
            conditions = [torch.cat([embedded, part], dim=1) for part in conditions]
        h = self.linear0(start).view(-1, self.start_channels, BOTTOM_SIZE, BOTTOM_SIZE)
        remaining = iter(conditions)
        for block in in_order(self.blocks):
            h = block(h) if isinstance(block, SelfAttention) else block(h, next(remaining))
        return torch.tanh(self.conv2d5(self.activation(self.bn4(h))))
