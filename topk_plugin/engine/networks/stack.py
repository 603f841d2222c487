"""The blocks of a network, with self-attention between them, nested as in StudioGAN."""

from collections.abc import Iterable, Iterator, Sequence

from torch import nn

from topk_plugin.engine.networks.layers import Layers
from topk_plugin.engine.networks.self_attention import SelfAttention


def stack(
    blocks: Iterable[tuple[nn.Module, int]], attention_after: Sequence[int], layers: Layers
) -> nn.ModuleList:
    """One ModuleList a block, as StudioGAN's state_dict names them.

    Args:
        blocks: each with its channels out. They may be made while they are asked for: modules are
            then made in StudioGAN's order, and so are random draws.
        attention_after: self-attention follows these blocks, counted from 1.
        layers: makes the layers of self-attention.
    """
    stacked: list[nn.ModuleList] = []
    for number, (block, channels) in enumerate(blocks, 1):
        stacked.append(nn.ModuleList([block]))
        if number in attention_after:
            stacked.append(nn.ModuleList([SelfAttention(channels, layers)]))
    return nn.ModuleList(stacked)


def in_order(stacked: nn.ModuleList) -> Iterator[nn.Module]:
    """The blocks and self-attentions of :func:`stack`, one by one."""
    for group in stacked.children():
        yield from group.children()
