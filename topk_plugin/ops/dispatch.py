"""Which implementation of an op runs on which device, and why."""

import functools
import importlib.util
import os

import torch

from topk_plugin.base.errors import UserError

ENVIRONMENT_VARIABLE = "TOPK_PLUGIN_OPS"

# Per op: its implementation on a CPU, on a CUDA device, and on anything else. "triton" is a
# hand-written kernel, "fused" a fused kernel of torch's own, "algebra" the same result by fewer of
# torch's operations, or by operations that stay in a CPU's cache, "reference" the operations as
# the formula has them. An op whose faster way did not win on a device keeps the reference there
# (benchmarks/ops/speed.py measures it on a CPU; elsewhere fewer launches win).
OPS: dict[str, tuple[str, str, str]] = {
    "upsample_conv3x3": ("algebra", "algebra", "algebra"),
    "conv3x3_avgpool": ("algebra", "algebra", "algebra"),
    "spectral_weights": ("algebra", "algebra", "algebra"),
    "self_attention_2d": ("algebra", "fused", "fused"),
    "conditional_batch_norm_relu": ("algebra", "triton", "reference"),
    "gate_rows": ("algebra", "triton", "algebra"),
}


def implementation(op_name: str, device: torch.device) -> str:
    """The implementation of ``op_name`` on ``device``, one of the words of ``OPS``.

    With the environment variable TOPK_PLUGIN_OPS=reference it is always "reference". Kernels need
    the package triton, which torch for CUDA brings along; without it a CUDA device is treated
    like any other that has none.

    Raises:
        UserError: TOPK_PLUGIN_OPS has another value.
    """
    if references_forced():
        return "reference"
    on_cpu, on_cuda, elsewhere = OPS[op_name]
    if device.type == "cpu":
        return on_cpu
    if device.type != "cuda":
        return elsewhere
    return elsewhere if on_cuda == "triton" and not has_triton() else on_cuda


def references_forced() -> bool:
    """Whether TOPK_PLUGIN_OPS asks for the references.

    Raises:
        UserError: its value is not known.
    """
    value = os.environ.get(ENVIRONMENT_VARIABLE, "")
    if value not in ("", "auto", "reference"):
        raise UserError(
            f"{ENVIRONMENT_VARIABLE} is {value!r}; allowed: reference (the plain operations), or "
            "auto (the default)"
        )
    return value == "reference"


@functools.cache
def has_triton() -> bool:
    """Whether the package triton is installed."""
    return importlib.util.find_spec("triton") is not None


def describe(device: torch.device) -> str:
    """One line: which implementation each op uses on ``device``, and why."""
    if references_forced():
        return f"ops: references, as {ENVIRONMENT_VARIABLE}=reference asks"
    chosen: dict[str, list[str]] = {}
    for name in OPS:
        chosen.setdefault(implementation(name, device), []).append(name)
    reasons = {
        "triton": "Triton kernels",
        "fused": "torch's fused kernel",
        "algebra": "fewer operations of torch's own",
        "reference": "references, which nothing beat here",
    }
    parts = [f"{reasons[kind]} for {', '.join(names)}" for kind, names in chosen.items()]
    line = f"ops on {device.type}: {'; '.join(parts)}"
    if device.type == "cuda" and not has_triton():
        line += "; no Triton kernels, since the package triton is not installed"
    return line
