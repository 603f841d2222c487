"""``-metrics none``: StudioGAN ends with an IndexError, for lack of a best checkpoint."""

import glob
import os
import re
from types import ModuleType
from typing import Any

from topk_plugin.studiogan.fixes.fix import Fix


def _adapt_ckpt(module: ModuleType) -> None:
    ckpt: Any = module
    original = ckpt.load_best_model

    def load_best_model(ckpt_dir: str, **networks: Any) -> int:
        pattern = os.path.join(glob.escape(ckpt_dir), "model=D-{}-weights-step=*.pth")
        if glob.glob(pattern.format("best")):
            return int(original(ckpt_dir=ckpt_dir, **networks))
        # No metric has chosen a best one, so the networks stay as the last step left them.
        saved = glob.glob(pattern.format("current"))
        steps = [re.search(r"step=(\d+)\.pth$", path) for path in saved]
        return max((int(step[1]) for step in steps if step), default=0)

    ckpt.load_best_model = load_best_model


FIX = Fix(
    name="no_metrics",
    why="-metrics none ends without a best checkpoint",
    needed=lambda: True,
    after={"utils.ckpt": _adapt_ckpt},
)
