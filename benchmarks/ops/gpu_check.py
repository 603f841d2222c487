"""Checks every op on a GPU against its reference, and times it.

    python -m benchmarks.ops.gpu_check --save gpu-check

Correctness: an op's result and gradients in fp32, bf16 and float64, contiguous and channels-last,
against its reference in float64. It may be a few times as far from that as the reference is in
the same dtype, since another order of the same sums rounds differently; more is a failure and
makes the exit status 1.

Speed: the op, its reference and torch.compile of its reference; and the roofline, which is the
longer of two times: that of the op's bytes (inputs read once, results written once) at this
machine's measured copy rate, and that of its floating-point operations at the rate of a large
matrix product in the same dtype. Without a GPU the exit status is 2.
"""

import argparse
import os
import platform
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.ops.gpu_check_cases import Case, Form, Size, call, cases, incoming_gradients
from benchmarks.ops.gpu_check_report import line_of, summary, table
from benchmarks.ops.gpu_check_times import limits_of, timed
from topk_plugin.base.files import atomic_write, write_json
from topk_plugin.ops import dispatch
from topk_plugin.ops.kernel_proof import without_proofs
from topk_plugin.version import __version__

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp64": torch.float64}
LAYOUTS = {"contiguous": False, "channels-last": True}
TIMED = ("fp32", "bf16")
ODD = Size(batch=3, channels=10, side=5)
SIZES = {"small": Size(2, 8, 4), "full": Size(64, 192, 16)}
# An op's relative error may be this many times its reference's, or this large.
TIMES_THE_REFERENCE = 4
ALWAYS_ALLOWED = {torch.float64: 2e-14, torch.float32: 1e-6, torch.bfloat16: 1e-2}


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit status: 0, 1 (an op is wrong), or 2 (nothing can be checked here)."""
    parser = argparse.ArgumentParser(description="Every op against its reference on a GPU.")
    parser.add_argument("--save", type=Path, help="folder for results.json and README.md")
    parser.add_argument("--device", default="cuda", help="cpu: to test this program itself")
    parser.add_argument("--size", choices=SIZES, default="full")
    parser.add_argument("--dtypes", nargs="+", choices=DTYPES, default=list(DTYPES))
    parser.add_argument("--ops", nargs="+", choices=dispatch.OPS, default=list(dispatch.OPS))
    parser.add_argument("--no-compile", action="store_true", help="don't time torch.compile")
    parser.add_argument("--no-times", action="store_true", help="check, and time nothing")
    options = parser.parse_args(arguments)
    device = torch.device(options.device)
    obstacle = _obstacle(device)
    if obstacle is not None:
        print(obstacle, file=sys.stderr)
        return 2
    # TF32 would round the references' products to 10 bits
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    with without_proofs():  # a wrong kernel shall show here, and not be replaced
        result = run(options, device)
    words = sys.argv[1:] if arguments is None else arguments
    result["command"] = " ".join(["python -m benchmarks.ops.gpu_check", *words])
    if options.save is not None:
        write_json(options.save / "results.json", result)
        with atomic_write(options.save / "README.md") as temporary:
            temporary.write_text(table(result), encoding="utf-8")
    print(summary(result))
    return 0 if all(row["passed"] for row in result["rows"]) else 1


def _obstacle(device: torch.device) -> str | None:
    """Why nothing can be checked here, in a sentence."""
    if device.type == "cuda" and not torch.cuda.is_available():
        return "torch sees no CUDA GPU here, so no op was checked; run this on a machine with one"
    if dispatch.references_forced():
        return (
            f"{dispatch.ENVIRONMENT_VARIABLE}=reference puts references in the place of the ops, "
            "so there is nothing to check; unset it"
        )
    return None


def run(options: argparse.Namespace, device: torch.device) -> dict[str, Any]:
    """Every row, printed as it comes, with what is needed to read it."""
    print(dispatch.describe(device), flush=True)
    rows, limits = [], {}
    for dtype in options.dtypes:
        if dtype in TIMED and not options.no_times:
            limits[dtype] = limits_of(device, DTYPES[dtype])
        for layout, channels_last in LAYOUTS.items():
            for size in (ODD, SIZES[options.size]):
                found = cases(size, device, DTYPES[dtype], channels_last)
                for op in options.ops:
                    of_op: list[Case | None] = [case for case in found if case.op == op]
                    for case in of_op or [None]:
                        # odd sizes show mistakes and not speed
                        of_machine = None if size is ODD else limits.get(dtype)
                        row = {
                            "op": op,
                            "variant": case.variant if case else "",
                            "dtype": dtype,
                            "layout": layout,
                            "size": list(size),
                            "implementation": dispatch.implementation(op, device),
                            **_row(case, DTYPES[dtype], of_machine, not options.no_compile),
                        }
                        rows.append(row)
                        print(line_of(row), flush=True)
    return {
        "device": _device_name(device),
        "versions": {
            "topk-plugin": __version__,
            "python": platform.python_version(),
            "torch": torch.__version__,
            "triton": _triton_version(),
            "CUDA": torch.version.cuda,
        },
        "ops": dispatch.describe(device),
        "limits": limits,
        "rows": rows,
    }


def _row(
    case: Case | None, dtype: torch.dtype, limits: dict[str, float] | None, compiled: bool
) -> dict[str, Any]:
    """Errors and, given ``limits``, times; or what was raised on the way."""
    if case is None:
        return {"passed": False, "raised": "benchmarks/ops/gpu_check_cases.py has no case of it"}
    try:
        row = _checked(case, dtype)
        return row | timed(case, limits, compiled=compiled) if limits and row["passed"] else row
    except Exception as error:  # whatever it is, the next op is still worth a check
        return {"passed": False, "raised": f"{type(error).__name__}: {error}"}


def _checked(case: Case, dtype: torch.dtype) -> dict[str, Any]:
    """Errors of the op, of results and of gradients, and what they may be."""
    found = _results_and_gradients(case, case.form)
    plain = _results_and_gradients(case, case.reference)
    truth = _results_and_gradients(case, case.reference, exact=True)
    alike = [a.dtype == b.dtype for a, b in zip(found[0], plain[0], strict=True)]
    row: dict[str, Any] = {"passed": all(alike)}
    for part, got, reference, exact in zip(
        ("result", "gradient"), found, plain, truth, strict=True
    ):
        error = _worst(got, exact)
        allowed = max(TIMES_THE_REFERENCE * _worst(reference, exact), ALWAYS_ALLOWED[dtype])
        row |= {f"{part}_error": error, f"{part}_allowed": allowed}
        # written so that a NaN fails
        row["passed"] = row["passed"] and error <= allowed
    return row


def _results_and_gradients(
    case: Case, form: Form, *, exact: bool = False
) -> tuple[list[Tensor], list[Tensor]]:
    """Results, with the constants as the call leaves them, and gradients; exact: in float64."""

    def own(x: Tensor) -> Tensor:
        return x.detach().to(torch.float64 if exact else x.dtype, copy=True)

    inputs = [own(x).requires_grad_() for x in case.inputs]
    constants = [own(x) for x in case.constants]
    results = call(form, inputs, constants)
    gradients = torch.autograd.grad(results, inputs, incoming_gradients(case, results))
    return [*(r.detach() for r in results), *constants], list(gradients)


def _worst(got: list[Tensor], exact: list[Tensor]) -> float:
    """The largest relative error (Euclidean) among the tensors."""
    errors = [
        float((a.double() - b).norm() / b.norm().clamp_min(torch.finfo(torch.float64).tiny))
        for a, b in zip(got, exact, strict=True)
    ]
    return max(errors) if all(e == e for e in errors) else float("nan")


def _device_name(device: torch.device) -> str:
    if device.type == "cuda":
        major, minor = torch.cuda.get_device_capability(device)
        return f"{torch.cuda.get_device_name(device)} (sm_{major}{minor})"
    return f"{device.type}, {os.cpu_count()} cores, {platform.machine()}"


def _triton_version() -> str:
    if not dispatch.has_triton():
        return "not installed"
    import triton

    return str(triton.__version__)


if __name__ == "__main__":
    sys.exit(main())
