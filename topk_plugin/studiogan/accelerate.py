"""The fast operations for networks that others have built: StudioGAN's, or torch's own layers."""

from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.spectral_norm import SpectralNorm

from topk_plugin.engine.networks.conditional_norm import ConditionalBatchNorm2d
from topk_plugin.engine.networks.generator_block import GeneratorBlock
from topk_plugin.engine.networks.resnet_critic import CriticBlock, FirstBlock
from topk_plugin.engine.networks.self_attention import SelfAttention
from topk_plugin.ops.batch_norm_modules import can_be_modulated
from topk_plugin.ops.resampling_layers import Conv2dAvgPool, UpsampleConv2d
from topk_plugin.ops.spectral_norm import BatchedSpectralNorm

# What a module's class gets: its forward pass, and what that asks the module for and it lacks.
Members = dict[str, Any]

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

    def _replace(self, module: nn.Module, members: Members) -> None:
        # A class and not an attribute of the instance: copies, and the replicas that DataParallel
        # makes, then compute with their own parameters.
        original = type(module)
        self._classes.append((module, original))
        module.__class__ = type(original.__name__, (original, _Fast), members)


class _Fast:
    """Marks the classes of accelerated modules."""


def accelerate(network: nn.Module, *, channels_last: bool = True) -> Acceleration:
    """Let ``network`` compute the same with fewer operations.

    Known are the blocks of StudioGAN's ``big_resnet`` and ``resnet`` (resampling folded into the
    convolutions, conditional batch normalisation and its ReLU as one operation), its conditional
    batch normalisation and self-attention in any backbone, torch's ``spectral_norm``, and in an
    ``nn.Sequential`` nearest up-sampling by 2 followed by a 3x3 convolution, or a 3x3 convolution
    followed by ``AvgPool2d(2)``. Modules, parameters,
    buffers, state_dict and hooks stay what they are.

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
    for module, members in _replacements(modules):
        result._replace(module, members)
    if any(isinstance(h, SpectralNorm) for m in modules for h in m._forward_pre_hooks.values()):
        result._spectral_norm = BatchedSpectralNorm(network)
    elif not result._classes:
        raise ValueError(
            f"nothing in this {type(network).__name__} can be accelerated; known are StudioGAN's "
            "big_resnet and resnet blocks, conditional batch normalisation and self-attention, "
            "spectral_norm, and resampling beside 3x3 convolutions in an nn.Sequential"
        )
    if channels_last and any(_is_block(original) for _, original in result._classes):
        network.to(memory_format=torch.channels_last)
        result._moved = True
    return result


def _replacements(modules: list[nn.Module]) -> Iterator[tuple[nn.Module, Members]]:
    for module in modules:
        name = _name(type(module))
        if _is_block(type(module)):
            yield from _BLOCKS[name[1]](module)
        elif name == CONDITIONAL_BATCH_NORM and can_be_modulated(module.get_submodule("bn")):
            yield module, {"forward": ConditionalBatchNorm2d.forward, "fuses_relu": True}
        elif name == SELF_ATTENTION:
            # StudioGAN decides on gradient penalties later
            yield module, {"forward": SelfAttention.forward, "twice_differentiable": True}
        elif isinstance(module, nn.Sequential):
            yield from _sequential_replacements(module)


# StudioGAN's blocks have the parts of the built-in ones, under the same names.


def _generator_block(block: Any) -> Iterator[tuple[nn.Module, Members]]:
    if _is_foldable(block.conv2d1):
        yield block, {"forward": GeneratorBlock.forward}
        yield block.conv2d1, {"forward": UpsampleConv2d.forward}


def _first_block(block: Any) -> Iterator[tuple[nn.Module, Members]]:
    if _is_foldable(block.conv2d2):
        yield block, {"forward": FirstBlock.forward, **_norms(block, "bn0", "bn1")}
        yield block.conv2d2, {"forward": Conv2dAvgPool.forward}


def _discriminator_block(block: Any) -> Iterator[tuple[nn.Module, Members]]:
    if block.downsample and _is_foldable(block.conv2d2):
        members = {"forward": CriticBlock.forward, "halve": True, "project_skip": True}
        # StudioGAN's activations work in place: what is left in x is what its skip path starts from
        members |= {"skip_activated": False, **_norms(block, "bn0", "bn1", "bn2")}
        yield block, members
        yield block.conv2d2, {"forward": Conv2dAvgPool.forward}


def _norms(block: Any, *names: str) -> Members:
    """A block with spectral normalisation has no batch normalisation to ask for."""
    return dict.fromkeys(names, staticmethod(_same)) if block.apply_d_sn else {}


def _same(x: Tensor) -> Tensor:
    return x


_BLOCKS: dict[str, Callable[[Any], Iterator[tuple[nn.Module, Members]]]] = {
    GENERATOR_BLOCK: _generator_block,
    FIRST_BLOCK: _first_block,
    DISCRIMINATOR_BLOCK: _discriminator_block,
}


def _sequential_replacements(layers: nn.Sequential) -> Iterator[tuple[nn.Module, Members]]:
    folded = {"forward": UpsampleConv2d.forward}, {"forward": Conv2dAvgPool.forward}
    for first, second in pairwise(layers):
        if type(first) is nn.Upsample and _is_foldable(second):
            if first.mode == "nearest" and first.scale_factor in (2, (2, 2)) and not first.size:
                yield first, {"forward": nn.Identity.forward}
                yield second, folded[0]
        elif _is_foldable(first) and type(second) is nn.AvgPool2d:
            plain = nn.AvgPool2d(2)
            names = ("kernel_size", "stride", "padding", "ceil_mode", "divisor_override")
            if all(getattr(second, n) in (getattr(plain, n), (2, 2)) for n in names):
                yield first, folded[1]
                yield second, {"forward": nn.Identity.forward}


def _is_foldable(module: nn.Module) -> bool:
    return (
        type(module) is nn.Conv2d
        and module.kernel_size == (3, 3)
        and module.padding in ((1, 1), "same")
        and module.stride == module.dilation == (1, 1)
        and module.groups == 1
        and module.padding_mode == "zeros"
    )


def _name(class_: type) -> tuple[str, str]:
    return class_.__module__, class_.__qualname__


def _is_block(class_: type) -> bool:
    return class_.__module__ in BACKBONES and class_.__qualname__ in _BLOCKS
