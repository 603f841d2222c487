"""A generator as a program that torch runs alone (torch.export), and how far it is from it."""

import torch
from torch import Tensor, nn
from torch.nn.utils import remove_spectral_norm
from torch.nn.utils.spectral_norm import SpectralNorm

from topk_plugin.engine.keys.settings import Settings
from topk_plugin.engine.latents import LatentSource
from topk_plugin.engine.networks.sampling import detached_copy
from topk_plugin.ops.attention import self_attention_2d_reference
from topk_plugin.ops.folded_convolution import upsample_conv3x3_reference
from topk_plugin.ops.spectral_norm import BatchedSpectralNorm

# Batch sizes at which the program is compared with the generator; the first is the one it is
# traced with.
COMPARED_SIZES = (3, 1, 17)


def generator_program(sampler: nn.Module, settings: Settings) -> torch.export.ExportedProgram:
    """Trace a generator: latents [N, z_dim] and labels int64 [N] to images, for any N.

    The program holds weights and torch's own operators only: spectral normalisation is divided
    out, and the package's operators are put back to the formulas that they stand for.

    Args:
        sampler: a generator in evaluation mode on the CPU; it is left untouched.
        settings: those that it was built from.
    """
    plain = _without_spectral_norm(sampler)
    batch = torch.export.Dim("batch", min=1)
    inputs = _inputs(settings, COMPARED_SIZES[0])
    traced = torch.export.export(plain, inputs, dynamic_shapes=({0: batch}, {0: batch}))
    ops = torch.ops.topk_plugin
    program = traced.run_decompositions(
        {
            ops.self_attention_2d.default: _attention,
            ops.upsample_conv3x3.default: upsample_conv3x3_reference,
        }
    )
    left = {str(n.target) for n in program.graph.nodes if "topk_plugin" in str(n.target)}
    assert not left, f"the exported generator still needs {sorted(left)}"
    return program


@torch.no_grad()
def largest_difference(
    program: torch.export.ExportedProgram, sampler: nn.Module, settings: Settings
) -> float:
    """The largest difference of a pixel, images being in (-1, 1), over a few batch sizes."""
    run = program.module()
    differences = []
    for size in COMPARED_SIZES:
        inputs = _inputs(settings, size)
        differences.append(float((run(*inputs) - sampler(*inputs)).abs().max()))
    return max(differences)


def _inputs(settings: Settings, count: int) -> tuple[Tensor, Tensor]:
    source = LatentSource(settings, seed=count, device=torch.device("cpu"))
    return source.latents(count), source.labels(count)


def _without_spectral_norm(sampler: nn.Module) -> nn.Module:
    """A copy whose weights are what spectral normalisation makes of them in evaluation mode."""
    plain = detached_copy(sampler)
    for hook in list(plain._forward_pre_hooks.values()):
        owner = getattr(hook, "__self__", None)
        if isinstance(owner, BatchedSpectralNorm):
            owner.remove()
    for module in plain.modules():
        for hook in list(module._forward_pre_hooks.values()):
            if isinstance(hook, SpectralNorm):
                remove_spectral_norm(module, hook.name)
    return plain.requires_grad_(False)


def _attention(
    query: Tensor, key: Tensor, value: Tensor, twice_differentiable: bool = False
) -> Tensor:
    return self_attention_2d_reference(query, key, value)
