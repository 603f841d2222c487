"""A copy of a generator that is ready to draw samples."""

import copy
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils.spectral_norm import SpectralNorm

_Network = TypeVar("_Network", bound=nn.Module)

# Averaged vectors start close to the right ones, but a generator that was hardly trained starts
# from random ones: then the error shrinks by the ratio of the two largest singular values,
# squared, at each iteration.
POWER_ITERATIONS = 50


def sampling_copy(generator: _Network) -> _Network:
    """Copy ``generator`` to evaluation mode with correct spectral norms; it is left untouched.

    Spectral normalisation divides by u' W v, right only for unit vectors u, v that belong to W.
    An exponential moving average of u and v has neither property, so the copy's are renewed by
    power iterations (without them, W is divided by too small a number and layers come out too
    large).
    """
    sampler = detached_copy(generator).eval().requires_grad_(False)
    for module in sampler.modules():
        for norm in _spectral_norms(module):
            _renew_singular_vectors(module, norm)
    return sampler


def detached_copy(network: _Network) -> _Network:
    """Deep copy that also works after a training step.

    A forward pass leaves the normalised weight, which hangs on the autograd graph, in a plain
    attribute of every spectrally normalised layer; deep copying refuses such tensors. The next
    forward pass overwrites it, so its value is all a copy needs.
    """
    replacements: dict[int, object] = {}
    for module in network.modules():
        for norm in _spectral_norms(module):
            weight = getattr(module, norm.name)
            replacements[id(weight)] = weight.detach().clone()
    copied = copy.deepcopy(network, replacements)
    # A compiled forward pass is bound to the network it was made for.
    copied.__dict__.pop("forward", None)
    return copied


def _spectral_norms(module: nn.Module) -> list[SpectralNorm]:
    hooks = module._forward_pre_hooks.values()
    return [hook for hook in hooks if isinstance(hook, SpectralNorm)]


@torch.no_grad()
def _renew_singular_vectors(module: nn.Module, norm: SpectralNorm) -> None:
    weight = norm.reshape_weight_to_matrix(getattr(module, f"{norm.name}_orig"))
    u, v = getattr(module, f"{norm.name}_u"), getattr(module, f"{norm.name}_v")
    for _ in range(POWER_ITERATIONS):
        v.copy_(F.normalize(weight.t().mv(u), dim=0, eps=norm.eps))
        u.copy_(F.normalize(weight.mv(v), dim=0, eps=norm.eps))
