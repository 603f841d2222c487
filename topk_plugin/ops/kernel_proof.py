"""A Triton kernel proves itself before it is used: once a device, dtype and layout."""

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils._python_dispatch import _disable_current_modes

from topk_plugin.ops.dispatch import implementation
from topk_plugin.ops.image_layout import is_channels_last

# Largest error of a result or a gradient, relative to its Euclidean norm. On inputs that are well
# conditioned a right kernel errs by a few roundings, and a wrong one by much more.
TOLERANCES = {
    torch.float64: 1e-12,
    torch.float32: 1e-5,
    torch.float16: 1e-2,
    torch.bfloat16: 5e-2,
}


class KernelWarning(UserWarning):
    """A Triton kernel is not used, because it failed on a small input."""


class Example(NamedTuple):
    """A small input on which an op must do what its reference does.

    Attributes:
        op, reference: called with ``inputs`` and then ``constants``; they return one tensor.
        inputs: floating-point tensors that get a gradient.
        constants: those that get none; a call may change them, and is given copies.
    """

    op: Callable[..., Tensor]
    reference: Callable[..., Tensor]
    inputs: Sequence[Tensor]
    constants: Sequence[Tensor] = ()


Examples = Callable[[], list[Example]]

_proven: dict[tuple[str, torch.device, torch.dtype, bool], bool] = {}
_proofs_wanted = True


def by_kernel(op_name: str, x: Tensor, examples: Examples) -> bool:
    """Whether the Triton kernel of ``op_name`` shall work on ``x``.

    At the first call for x's device, dtype and layout the kernel is compared with the reference,
    forward and backward, on ``examples`` brought there. If it raises or differs it is never used
    for them, and one KernelWarning says so.

    Args:
        op_name: one of ``topk_plugin.ops.dispatch.OPS``.
        x: what the kernel would read.
        examples: makes small inputs, in float64 on the CPU.
    """
    if implementation(op_name, x.device) != "triton":
        return False
    if not _proofs_wanted or x.dtype not in TOLERANCES:
        return True
    key = op_name, x.device, x.dtype, is_channels_last(x)
    if key not in _proven:
        _proven[key] = True  # the op asks again while it is looked at
        fault = _fault(examples, *key[1:])
        if fault is not None:
            _proven[key] = False
            warnings.warn(
                f"the Triton kernel of {op_name} is not used on {x.device} for {x.dtype}: on a "
                f"small input {fault}; torch's own operations take its place; from a checkout, "
                f"`python -m benchmarks.ops.gpu_check --ops {op_name} --no-times` shows more",
                KernelWarning,
                stacklevel=2,
            )
    return _proven[key]


@contextmanager
def without_proofs() -> Iterator[None]:
    """In here kernels are used as they are, right or wrong: for measuring how wrong."""
    global _proofs_wanted
    _proofs_wanted = False
    try:
        yield
    finally:
        _proofs_wanted = True


def _fault(
    examples: Examples, device: torch.device, dtype: torch.dtype, channels_last: bool
) -> str | None:
    """What is wrong with the kernel, in words; None if nothing is."""

    def moved(tensor: Tensor) -> Tensor:
        # in between by way of dtype, so that the reference sees the same numbers
        tensor = tensor.to(device, dtype)
        if channels_last and tensor.dim() == 4:
            return tensor.contiguous(memory_format=torch.channels_last)
        return tensor

    # What torch.compile traces with, autocast and inference mode would change what is looked at.
    with (
        _disable_current_modes(),
        torch.inference_mode(False),
        torch.enable_grad(),
        torch.autocast(device.type, enabled=False),
    ):
        for example in examples():
            inputs = [moved(x) for x in example.inputs]
            constants = [moved(x) for x in example.constants]
            try:
                found = _run(example.op, inputs, constants)
                errors = _errors(found, example.reference, inputs, constants)
            except Exception as error:  # whatever a compiler or a launch raises
                return f"it raised {type(error).__name__} ({_first_line(error)})"
            for name, size in errors.items():
                if not size <= TOLERANCES[dtype]:  # a NaN too
                    return f"its {name} is off by {size:.0e} of its size"
    return None


def _errors(
    found: list[Tensor],
    reference: Callable[..., Tensor],
    inputs: list[Tensor],
    constants: list[Tensor],
) -> dict[str, float]:
    exact = _run(reference, [x.double() for x in inputs], [x.double() for x in constants])
    names = ["result"] + ["gradient"] * len(inputs) + ["changed input"] * len(constants)
    errors: dict[str, float] = {}
    for name, got, wanted in zip(names, found, exact, strict=True):
        error = float((got.double() - wanted).norm() / wanted.norm().clamp_min(1e-30))
        errors[name] = error if name not in errors or error != error else max(errors[name], error)
    return errors


def _run(op: Callable[..., Tensor], inputs: list[Tensor], constants: list[Tensor]) -> list[Tensor]:
    """Result, gradients of the inputs, and the constants as the call left them."""
    leaves = [x.detach().clone().requires_grad_() for x in inputs]
    constants = [x.clone() for x in constants]
    result = op(*leaves, *constants)
    incoming = torch.arange(result.numel(), device=result.device).remainder(7).sub(2.5)
    incoming = incoming.view(result.shape).to(result.dtype)  # multiples of 1/2: exact in any dtype
    gradients = torch.autograd.grad(result, leaves, incoming)
    return [result.detach(), *gradients, *constants]


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0][:200] if lines else "no message"
