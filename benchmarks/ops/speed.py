"""Each op against its reference, and against torch.compile of the reference, on this machine's CPU.

    python -m benchmarks.ops.speed

Forward alone (no gradient), and forward with backward, at the sizes of CIFAR-10 BigGAN, channels
last, on one thread. The three take turns; a round gives one ratio, and the table has their medians,
of process CPU time. With a GPU see benchmarks/ops/gpu_check.py, which times the same cases.
"""

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from benchmarks.common import DTYPES
from benchmarks.ops.gpu_check_cases import Case, Form, Size, call, cases, incoming_gradients
from topk_plugin.base.files import atomic_write, write_json
from topk_plugin.ops.dispatch import OPS, describe, implementation

SIZES = (
    Size(64, 128, 4),
    Size(64, 128, 8),
    Size(64, 128, 16),
    Size(64, 384, 8),
    Size(64, 64, 32),
)
CPU = torch.device("cpu")
WINS = 1.03
"""Ratios under this are no win."""


def main() -> None:
    parser = argparse.ArgumentParser(description="Ops against their references on the CPU.")
    parser.add_argument("--save", type=Path, default=Path("benchmarks/results/ops"))
    parser.add_argument("--rounds", type=int, default=15)
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    for dtype, kind in DTYPES.items():
        for size in SIZES:
            for case in cases(size, CPU, kind, channels_last=True):
                row = {
                    "op": case.op,
                    "variant": case.variant,
                    "size": list(size),
                    "dtype": dtype,
                    **_measured(case, options.rounds),
                }
                rows.append(row)
                print(json.dumps(row), flush=True)
    result = {
        "command": "python -m benchmarks.ops.speed",
        "rounds": options.rounds,
        "versions": {"python": platform.python_version(), "torch": torch.__version__},
        "hardware": platform.machine(),
        "ops": describe(CPU),
        "rows": rows,
    }
    write_json(options.save / "results.json", result)
    with atomic_write(options.save / "README.md") as temporary:
        temporary.write_text(report(result), encoding="utf-8")


def _measured(case: Case, rounds: int) -> dict[str, Any]:
    """Median ratios to the op's time, of its reference and of the compiled reference."""
    torch._dynamo.reset()
    forms = {
        "op": case.form,
        "reference": case.reference,
        "compiled": torch.compile(case.reference, fullgraph=True),
    }
    works = {name: _works(case, form) for name, form in forms.items()}
    row: dict[str, Any] = {}
    for part in ("forward", "both"):
        seconds: dict[str, list[float]] = {name: [] for name in forms}
        for number in range(rounds):
            names = list(forms)
            for name in names if number % 2 == 0 else reversed(names):
                started = time.process_time()
                works[name][part]()
                seconds[name].append(time.process_time() - started)
        row[part] = {
            "milliseconds": statistics.median(seconds["op"]) * 1e3,
            **{
                name: statistics.median(
                    theirs / own for theirs, own in zip(seconds[name], seconds["op"], strict=True)
                )
                for name in ("reference", "compiled")
            },
        }
    return row


def _works(case: Case, form: Form) -> dict[str, Callable[[], object]]:
    """The forward pass, and forward with backward; both were called once."""
    constants = [x.clone() for x in case.constants]
    inputs = [x.detach().clone().requires_grad_() for x in case.inputs]
    incoming = incoming_gradients(case, call(form, inputs, constants))

    def forward() -> None:
        with torch.no_grad():
            call(form, inputs, constants)

    def both() -> None:
        torch.autograd.grad(call(form, inputs, constants), inputs, incoming)

    forward()
    both()
    return {"forward": forward, "both": both}


def report(result: dict[str, Any]) -> str:
    """The page of the results."""
    lines = [
        "# Ops against their references on a CPU",
        "",
        f"`{result['command']}`: one thread, {result['hardware']}, python "
        f"{result['versions']['python']}, torch {result['versions']['torch']}, channels-last, "
        f"medians of {result['rounds']} rounds. How many times the op's CPU time its reference "
        "takes, and the reference through torch.compile (whose own time to compile is not "
        "counted); over 1 the op is faster. Sizes are batch x channels x side.",
        "",
        "| op | dtype | size | op, ms | reference / op, forward | with backward | "
        "compiled / op, forward | with backward |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in sorted(result["rows"], key=lambda r: (r["op"], r["variant"], r["dtype"] != "fp32")):
        name = f"`{row['op']}`" + (f", {row['variant']}" if row["variant"] else "")
        forward, both = row["forward"], row["both"]
        lines.append(
            f"| {name} | {row['dtype']} | {' x '.join(map(str, row['size']))} | "
            f"{both['milliseconds']:.1f} | {forward['reference']:.2f} | {both['reference']:.2f} | "
            f"{forward['compiled']:.2f} | {both['compiled']:.2f} |"
        )
    lines += ["", "## What follows", ""]
    for op in OPS:
        lines.append(f"- `{op}`: {_verdict(op, [r for r in result['rows'] if r['op'] == op])}")
    return "\n".join(lines) + "\n"


def _verdict(op: str, rows: list[dict[str, Any]]) -> str:
    won = sum(row["both"]["reference"] > WINS for row in rows)
    words = (
        f"faster than the reference by more than {WINS - 1:.0%} in {won} of {len(rows)} cases "
        "(forward with backward)"
    )
    if implementation(op, CPU) == "reference":
        return f"{words}; left out on a CPU"
    if won == 0:
        return f"{words}; it should be left out on a CPU"
    return f"{words}; in use, except at sizes where its own file says that the reference is kept"


if __name__ == "__main__":
    main()
