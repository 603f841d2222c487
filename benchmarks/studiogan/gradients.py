"""The generator's gradient in the real StudioGAN: the gate beside StudioGAN's own slice.

    python -m benchmarks.studiogan.gradients CHECKOUT

One generator step in each config of ``topk_plugin/studiogan/testing/generator_steps.py``, in
float64 on the CPU, by unmodified StudioGAN and by the adapter, from the same weights, latents and
classes. Writes README.md and results.json into --save.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from topk_plugin.base.files import atomic_write
from topk_plugin.studiogan.testing.generator_steps import BATCH, CASES, KEPT

ROOT = Path(__file__).parents[2]


def main() -> None:
    parser = argparse.ArgumentParser(description="The gate's gradient beside StudioGAN's slice's.")
    parser.add_argument("checkout", type=Path, help="a PyTorch-StudioGAN checkout")
    parser.add_argument("--save", type=Path, default=Path("benchmarks/results/studiogan-gradients"))
    options = parser.parse_args()
    steps: dict[str, dict[str, Any]] = {name: {} for name in CASES}
    with tempfile.TemporaryDirectory() as folder:
        for kind in ("bare", "adapted"):
            file = Path(folder) / f"{kind}.pt"
            _run(kind, options.checkout.resolve(), file)
            for name, modes in torch.load(file, weights_only=True).items():
                steps[name] |= modes
    results = {
        "cases": {name: _measure(modes) for name, modes in steps.items()},
        "batch": BATCH,
        "kept": KEPT,
        "versions": {"python": platform.python_version(), "torch": torch.__version__},
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
    }
    options.save.mkdir(parents=True, exist_ok=True)
    with atomic_write(options.save / "results.json") as temporary:
        temporary.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    with atomic_write(options.save / "README.md") as temporary:
        temporary.write_text(_table(results), encoding="utf-8")


def _run(kind: str, checkout: Path, file: Path) -> None:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    command = [
        sys.executable,
        "-m",
        "topk_plugin.studiogan.testing.generator_steps",
        kind,
        str(checkout),
        str(file),
    ]
    subprocess.run(command, cwd=ROOT, env=environment, check=True)


def _measure(modes: dict[str, Any]) -> dict[str, float | None]:
    """Of one case; None where StudioGAN refuses top-k."""
    gate, own = modes["gate"], modes.get("slice")
    difference = None
    if own is not None:
        pairs = zip(gate["updates"], own["updates"], strict=True)
        difference = max(_difference(_flat(a), _flat(b)) for a, b in pairs)
    return {
        "difference": difference,
        "dropped_gate": _dropped_share(gate),
        "dropped_slice": None if own is None else _dropped_share(own),
        "dropped_without_topk": _dropped_share(modes["off"]),
    }


def _flat(update: dict[str, Tensor]) -> Tensor:
    return torch.cat([g.flatten() for name, g in update.items() if name.startswith("Gen.")])


def _difference(actual: Tensor, expected: Tensor) -> float:
    return float((actual - expected).norm() / expected.norm())


def _dropped_share(mode: dict[str, Any]) -> float:
    """Of the squared norm of the gradient at the critic's input, what the dropped rows have."""
    dropped, total = 0.0, 0.0
    for scores, rows in zip(mode["scores"], mode["rows"], strict=True):
        squares = rows.flatten(1).square().sum(1)
        worst = scores.argsort(descending=True, stable=True)[KEPT:]
        dropped, total = dropped + float(squares[worst].sum()), total + float(squares.sum())
    return dropped / total


def _table(results: dict[str, Any]) -> str:
    lines = [
        "# The generator's gradient in StudioGAN: the gate and StudioGAN's own slice",
        "",
        "`python -m benchmarks.studiogan.gradients CHECKOUT` (StudioGAN at commit 947b35e).",
        "One generator step of a freshly initialised big_resnet GAN (8 channels, 32 px, attention,",
        "spectral norm; hinge loss where the case names no other) in float64 on the CPU, batch",
        f"{results['batch']}, k = {results['kept']}, from the same weights, latents and classes.",
        "The slice is unmodified StudioGAN's, in a process without the adapter.",
        "",
        "- *difference*: of the generator's whole gradient, gate against slice, by global norm.",
        "- *at dropped images*: their share of the squared norm of the gradient at the critic's",
        "  input. Without top-k (last column) it is what those images contribute on their own.",
        "",
        "| case | difference | at dropped images: gate | slice | no top-k |",
        "|---|---|---|---|---|",
    ]
    for name, case in results["cases"].items():
        shown = [
            "refused" if value is None else "0" if value == 0 else f"{value:.2g}"
            for value in case.values()
        ]
        lines.append(f"| {name} | {' | '.join(shown)} |")
    lines += [
        "",
        "Where only the adversarial term depends on the critic, both gradients are the same. Where",
        "other terms do (AC, 2C, D2DCE, feature matching, InfoGAN), the slice lets dropped images",
        "through; how much depends on how strong those terms are, which training changes. MH:",
        "StudioGAN refuses top-k. TAC is shown with tac_gen_lambda at half of cond_lambda: at this",
        "commit both terms are the same function of the same outputs, and cancel when equal.",
        "",
        f"Python {results['versions']['python']}, torch {results['versions']['torch']}; "
        f"{results['machine']}.",
        "",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
