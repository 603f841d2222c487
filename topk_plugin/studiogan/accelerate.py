"""The fast operations for networks that others have built: StudioGAN's, or torch's own layers."""

from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.spectral_norm import SpectralNorm

from topk_plugin.ops.attention import self_attention_2d
from topk_plugin.ops.batch_norm_modules import can_be_modulated, modulated
from topk_plugin.ops.resampling_layers import Conv2dAvgPool, UpsampleConv2d
from topk_plugin.ops.spectral_norm import BatchedSpectralNorm

Forward = Callable[..., Tensor]

# StudioGAN's classes, as its own modules name them. Blocks of these two backbones compute the same.
BACKBONES = ("models.big_resnet", "models.resnet")
GENERATOR_BLOCK, FIRST_BLOCK, DISCRIMINATOR_BLOCK = "GenBlock", "DiscOptBlock", "DiscBlock"
SELF_ATTENTION = ("utils.ops", "SelfAttention")
CONDITIONAL_BATCH_NORM = ("utils.ops", "ConditionalBatchNorm2d")


class Acceleration:
    """What :func:`accelerate` changed; :meth:`remove` undoes it."""

    def __init__(self, network: nn.Module) -> None:
        self._network = network
        self._classes: list[tuple[nn.Module, type[nn.Module]]] = []
        self._spectral_norm: BatchedSpectralNorm | None = None
        self._moved = False

    def remove(self) -> None:
        """Give every module its own forward pass back. A second call does nothing."""
        for module, original in self._classes:
            module.__class__ = original
        self._classes.clear()
        if self._spectral_norm is not None:
            self._spectral_norm.remove()
            self._spectral_norm = None
        if self._moved:
            self._network.to(memory_format=torch.contiguous_format)
            self._moved = False

    def _replace(self, module: nn.Module, forward: Forward) -> None:
        # A class and not an attribute of the instance: copies, and the replicas that DataParallel
        # makes, then compute with their own parameters.
        original = type(module)
        self._classes.append((module, original))
        module.__class__ = type(original.__name__, (original, _Fast), {"forward": forward})


class _Fast:
    """Marks the classes of accelerated modules."""


def accelerate(network: nn.Module, *, channels_last: bool = True) -> Acceleration:
    """Let ``network`` compute the same with fewer operations.

    Known are the blocks of StudioGAN's ``big_resnet`` and ``resnet`` (resampling folded into the
    convolutions, conditional batch normalisation and its ReLU as one operation), its self-attention
    in any backbone, torch's ``spectral_norm``, and in an ``nn.Sequential`` nearest up-sampling by 2
    followed by a 3x3 convolution, or a 3x3 convolution followed by ``AvgPool2d(2)``. Modules,
    parameters, buffers, state_dict and hooks stay what they are.

    Args:
        network: changed in place; without the wrapper of DataParallel or DistributedDataParallel.
        channels_last: lay out the weights of a network with such blocks channels-last, which is
            faster; their values and shapes stay.

    Returns:
        A handle whose ``remove()`` takes everything back.

    Raises:
        ValueError: nothing in ``network`` is known.
        RuntimeError: ``network`` is accelerated already.
    """
    modules = list(network.modules())
    if any(isinstance(module, _Fast) for module in modules):
        raise RuntimeError(f"this {type(network).__name__} is accelerated already")
    result = Acceleration(network)
    for module, forward in _replacements(modules):
        result._replace(module, forward)
    if any(isinstance(h, SpectralNorm) for m in modules for h in m._forward_pre_hooks.values()):
        result._spectral_norm = BatchedSpectralNorm(network)
    elif not result._classes:
        raise ValueError(
            f"nothing in this {type(network).__name__} can be accelerated; known are StudioGAN's "
            "big_resnet, resnet and self-attention, spectral_norm, and resampling beside 3x3 "
            "convolutions in an nn.Sequential"
        )
    if channels_last and any(_is_block(original) for _, original in result._classes):
        network.to(memory_format=torch.channels_last)
        result._moved = True
    return result


def _replacements(modules: list[nn.Module]) -> Iterator[tuple[nn.Module, Forward]]:
    for module in modules:
        if _is_block(type(module)) and _BLOCKS[type(module).__qualname__](module):
            yield from _block_replacements(module, type(module).__qualname__)
        elif _name(type(module)) == SELF_ATTENTION:
            yield module, _self_attention
        elif isinstance(module, nn.Sequential):
            yield from _sequential_replacements(module)


def _block_replacements(block: Any, name: str) -> Iterator[tuple[nn.Module, Forward]]:
    if name == GENERATOR_BLOCK:
        yield block, _generator_block
        yield block.conv2d1, UpsampleConv2d.forward
    elif name == FIRST_BLOCK:
        yield block, _first_block
        yield block.conv2d2, Conv2dAvgPool.forward
    elif block.downsample:
        yield block, _discriminator_block
        yield block.conv2d2, Conv2dAvgPool.forward


def _sequential_replacements(layers: nn.Sequential) -> Iterator[tuple[nn.Module, Forward]]:
    for first, second in pairwise(layers):
        if type(first) is nn.Upsample and _is_foldable(second):
            if first.mode == "nearest" and first.scale_factor in (2, (2, 2)) and not first.size:
                yield first, _identity
                yield second, UpsampleConv2d.forward
        elif _is_foldable(first) and type(second) is nn.AvgPool2d:
            plain = nn.AvgPool2d(2)
            names = ("kernel_size", "stride", "padding", "ceil_mode", "divisor_override")
            if all(getattr(second, n) in (getattr(plain, n), (2, 2)) for n in names):
                yield first, Conv2dAvgPool.forward
                yield second, _identity


def _is_foldable(module: nn.Module) -> bool:
    return (
        type(module) is nn.Conv2d
        and module.kernel_size == (3, 3)
        and module.padding in ((1, 1), "same")
        and module.stride == module.dilation == (1, 1)
        and module.groups == 1
        and module.padding_mode == "zeros"
    )


_BLOCKS: dict[str, Callable[[Any], bool]] = {
    GENERATOR_BLOCK: lambda block: _is_foldable(block.conv2d1),
    FIRST_BLOCK: lambda block: _is_foldable(block.conv2d2),
    DISCRIMINATOR_BLOCK: lambda block: _is_foldable(block.conv2d2),
}


def _name(class_: type) -> tuple[str, str]:
    return class_.__module__, class_.__qualname__


def _is_block(class_: type) -> bool:
    return class_.__module__ in BACKBONES and class_.__qualname__ in _BLOCKS


def _identity(layer: nn.Module, x: Tensor) -> Tensor:
    return x


def _generator_block(block: Any, x: Tensor, affine: Tensor) -> Tensor:
    h = block.conv2d1(_activated(block.bn1, block.activation, x, affine))
    h = block.conv2d2(_activated(block.bn2, block.activation, h, affine))
    # a 1x1 convolution commutes with nearest up-sampling, and costs a quarter before it
    return h + F.interpolate(block.conv2d0(x), scale_factor=2.0)


def _activated(bn: Any, activation: nn.Module, x: Tensor, affine: Tensor) -> Tensor:
    conditional = _name(type(bn)) == CONDITIONAL_BATCH_NORM and can_be_modulated(bn.bn)
    if not conditional:
        # an unconditional resnet has torch's own, which takes no condition
        own = isinstance(bn, nn.BatchNorm2d | nn.SyncBatchNorm)
        normalised = bn(x) if own else bn(x, affine)
        result: Tensor = activation(normalised)
        return result
    is_relu = type(activation) is nn.ReLU
    result = modulated(bn.bn, x, bn.gain(affine), bn.bias(affine), relu=is_relu)
    return result if is_relu else activation(result)


def _first_block(block: Any, x: Tensor) -> Tensor:
    skip = F.avg_pool2d(x, 2)
    h = block.conv2d1(x)
    if not block.apply_d_sn:
        h, skip = block.bn1(h), block.bn0(skip)
    h = block.conv2d2(block.activation(h))
    return h + block.conv2d0(skip)


def _discriminator_block(block: Any, x: Tensor) -> Tensor:
    normalised = not block.apply_d_sn
    # StudioGAN's activations work in place: without batch normalisation they change x, and the
    # skip path below begins with what they left.
    h = block.conv2d1(block.activation(block.bn1(x) if normalised else x))
    h = block.conv2d2(block.activation(block.bn2(h) if normalised else h))
    skip = block.bn0(x) if normalised else x
    return h + block.conv2d0(F.avg_pool2d(skip, 2))


def _self_attention(block: Any, x: Tensor) -> Tensor:
    queries = block.conv1x1_theta(x).flatten(2)
    keys = F.max_pool2d(block.conv1x1_phi(x), 2).flatten(2)
    values = F.max_pool2d(block.conv1x1_g(x), 2).flatten(2)
    mixed = self_attention_2d(queries, keys, values, twice_differentiable=True)
    return x + block.sigma * block.conv1x1_attn(mixed.unflatten(2, x.shape[2:]))
