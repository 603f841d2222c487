"""Runs StudioGAN with the adapter and counts the gradient rows that pass the gate.

    python benchmarks/studiogan/observer.py CHECKOUT REPORT.json STUDIOGAN ARGS

REPORT.json: for each generator update, for each gated critic call, the number of rows of the
gradient that are not zero.
"""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import topk_plugin.gate.selection as gating
from topk_plugin.base.files import atomic_write
from topk_plugin.gate.gradient_gate import gradient_gate
from topk_plugin.gate.topk import TopK
from topk_plugin.studiogan.launch import run_main


def main() -> None:
    checkout, report, *arguments = sys.argv[1:]
    updates: list[list[int]] = []
    calls: list[int] = []
    end_step = TopK.end_step

    def observed_gate(x: Tensor, weights: Any) -> Tensor:
        below = x.view_as(x)  # its gradient is what the gate lets through, and nothing else
        below.register_hook(lambda g: calls.append(int((g.flatten(1) != 0).any(1).sum())))
        return gradient_gate(below, weights)

    def observed_end_step(self: TopK) -> None:
        end_step(self)
        updates.append(calls.copy())
        calls.clear()
        with atomic_write(Path(report)) as temporary:
            temporary.write_text(json.dumps(updates), encoding="utf-8")

    changes: dict[str, tuple[Any, Callable[..., Any]]] = {
        "gradient_gate": (gating, observed_gate),
        "end_step": (TopK, observed_end_step),
    }
    for name, (owner, replacement) in changes.items():
        setattr(owner, name, replacement)
    torch.set_num_threads(1)
    run_main(Path(checkout), arguments)


if __name__ == "__main__":
    main()
