"""StudioGAN's main.py with the adapter, and somebody who watches the generator steps.

    python -m tests.studiogan.real.watched_main CHECKOUT REPORT STUDIOGAN ARGS

REPORT-RANK.pt holds a list with an entry a step, see :func:`watch`. Processes that StudioGAN spawns
(-DDP) import this module again, and are watched too.
"""

import importlib
import os
import sys
from pathlib import Path
from typing import Any

import torch

from topk_plugin.studiogan.testing.in_process import start_adapted
from topk_plugin.studiogan.testing.step_recorder import Recorder

CHECKOUT, REPORT = "REAL_TEST_CHECKOUT", "REAL_TEST_REPORT"


def watch(worker: Any) -> None:
    """After every step, write k, and for each batch its scores and which rows had a gradient."""
    recorder = Recorder()
    recorder.watch(worker)
    train_generator = worker.train_generator
    steps: list[dict[str, Any]] = []

    def train_and_tell(current_step: int) -> Any:
        k = worker.topk
        recorder.clear()
        result = train_generator(current_step=current_step)
        rows = [batch.rows.flatten(1).any(1) for batch in recorder.batches]
        scores = [batch.scores for batch in recorder.batches]
        steps.append({"step": current_step, "k": k, "rows": rows, "scores": scores})
        torch.save(steps, f"{os.environ[REPORT]}-{worker.global_rank}.pt")
        return result

    worker.train_generator = train_and_tell


def prepare(watch: Any) -> None:
    """Adapt StudioGAN in this process; ``watch`` is given the WORKER once it is made."""
    start_adapted(Path(os.environ[CHECKOUT]) / "src")
    importlib.import_module("config")
    loader: Any = importlib.import_module("loader")
    original = loader.WORKER

    class Worker(original):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            watch(self)

    loader.WORKER = Worker


def main() -> None:
    from topk_plugin.studiogan.launch import run_main

    run_main(Path(os.environ[CHECKOUT]), sys.argv[3:])


if __name__ == "__main__":
    os.environ[CHECKOUT], os.environ[REPORT] = str(Path(sys.argv[1]).resolve()), sys.argv[2]
    prepare(watch)
    main()
elif __name__ == "__mp_main__":
    prepare(watch)
