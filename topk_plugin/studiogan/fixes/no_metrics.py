"""Runs without a best checkpoint: StudioGAN, which loads it at the end, fails for lack of it.

Only FID makes one, so ``-metrics none`` and ``-metrics is`` don't, nor does a run that ends before
its first save.
"""

import glob
import os
import re
from types import ModuleType
from typing import Any

from topk_plugin.base.errors import UserError
from topk_plugin.studiogan.fixes.fix import Fix


def _adapt_ckpt(module: ModuleType) -> None:
    ckpt: Any = module
    load_best = ckpt.load_best_model
    load_to_resume = ckpt.load_StudioGAN_ckpts

    def load_best_model(ckpt_dir: str, **networks: Any) -> int:
        if _saved_steps(ckpt_dir, "best"):
            return int(load_best(ckpt_dir=glob.escape(ckpt_dir), **networks))
        step = max(_saved_steps(ckpt_dir, "current"), default=0)
        print(
            f"No best checkpoint in {ckpt_dir}, since no FID was computed there: the networks stay "
            f"as they are (last saved at step {step}).",
            flush=True,
        )
        return step

    def load_studiogan_ckpts(ckpt_dir: str, load_best: bool, **options: Any) -> Any:
        when = "best" if load_best else "current"
        if not _saved_steps(ckpt_dir, when):
            hint = "give the folder of a run, which StudioGAN makes in SAVE/checkpoints"
            if _saved_steps(ckpt_dir, "current"):
                hint = "leave -best out to load the latest"
            raise UserError(f"{ckpt_dir} (-ckpt) has no {when} checkpoint; {hint}")
        return load_to_resume(ckpt_dir=ckpt_dir, load_best=load_best, **options)

    ckpt.load_best_model = load_best_model
    ckpt.load_StudioGAN_ckpts = load_studiogan_ckpts


def _saved_steps(ckpt_dir: str, when: str) -> list[int]:
    paths = glob.glob(os.path.join(glob.escape(ckpt_dir), f"model=D-{when}-weights-step=*.pth"))
    steps = [re.search(r"step=(\d+)\.pth$", path) for path in paths]
    return [int(step[1]) for step in steps if step]


def _adapt_worker(module: ModuleType) -> None:
    """Pictures at the end are logged at the last logged step, which a short run does not have."""
    worker: Any = module
    worker.WORKER.wandb_step = 0


FIX = Fix(
    name="no_metrics",
    why="runs without FID have no best checkpoint to end with",
    needed=lambda: True,
    after={"utils.ckpt": _adapt_ckpt, "worker": _adapt_worker},
)
