"""Stands in for the module ``wandb`` inside StudioGAN: TensorBoard always, wandb if it can be."""

import importlib
import netrc
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any
from urllib.parse import urlparse

from torch import Tensor
from torchvision.utils import make_grid

from topk_plugin.monitor import RunLog

# StudioGAN's names of what it logs -> tags that the built-in trainer has too.
TAGS = {
    "gen_loss": "loss/generator",
    "dis_loss": "loss/discriminator",
    "cls_loss": "loss/conditional",
    "FID score": "metric/fid",
    "IS score": "metric/is",
    "Improved Precision": "metric/precision",
    "Improved Recall": "metric/recall",
    "Density": "metric/density",
    "Coverage": "metric/coverage",
}


class Picture:
    """What :meth:`WandbBridge.Image` returns: a batch [N, 3, H, W] in [-1, 1] as one grid."""

    def __init__(self, images: Tensor) -> None:
        grid = make_grid(images.detach().float().cpu(), nrow=8)
        self.grid = grid.add(1).div(2).clamp(0, 1)


class WandbBridge:
    """Has what StudioGAN uses of ``wandb``, and passes on to the real one if there is one.

    Attributes:
        resume_step: step that a resumed run goes on from; set it before StudioGAN calls ``init``.
        run_log: where the events go; None before ``init``.
    """

    resume_step: int | None = None
    run_log: RunLog | None = None

    def __init__(self, real: ModuleType | None) -> None:
        self._real: Any = real

    def init(self, *, dir: str, name: str, **options: Any) -> None:
        """Open ``dir/tensorboard/name``, and a wandb run if that is possible."""
        folder = Path(dir) / "tensorboard" / name
        self.run_log = RunLog(folder, self.resume_step, events=folder)
        if self._real is None:
            print(f"TensorBoard: {folder} (wandb has no account here and stays out)", flush=True)
            return
        self._real.init(dir=dir, name=name, **options)

    def log(self, values: Mapping[str, Any], step: int) -> None:
        """Log numbers and pictures."""
        assert self.run_log is not None, "StudioGAN calls init first"
        pictures = {name: v for name, v in values.items() if isinstance(v, Picture)}
        numbers = {tag(name): float(v) for name, v in values.items() if name not in pictures}
        if numbers:
            self.run_log.scalars(step, numbers)
        for name, picture in pictures.items():
            self.run_log.image(step, f"samples/{name}", picture.grid)
        if self._real is not None:
            shown = {name: self._real.Image(p.grid) for name, p in pictures.items()}
            self._real.log({**values, **shown}, step=step)

    def Image(self, images: Tensor) -> Picture:
        """A batch for :meth:`log`; today's wandb takes no batches."""
        return Picture(images)

    def finish(self) -> None:
        """Close both."""
        if self.run_log is not None:
            self.run_log.close()
        if self._real is not None:
            self._real.finish()

    def __getattr__(self, name: str) -> Any:
        if self._real is None:
            raise AttributeError(f"wandb.{name} needs the package wandb and an account")
        return getattr(self._real, name)


def tag(name: str) -> str:
    """TensorBoard's tag for a name of StudioGAN's."""
    return TAGS.get(name, f"studiogan/{name}")


def make_bridge() -> WandbBridge:
    """A bridge to the real wandb where the user has an account or has chosen a mode."""
    if not _chosen():
        return WandbBridge(None)
    try:
        return WandbBridge(importlib.import_module("wandb"))
    except ImportError:
        print("wandb is set up, but the package is missing", file=sys.stderr)
        return WandbBridge(None)


def _chosen() -> bool:
    """Whether wandb would start without a question: a key or a mode is there."""
    if os.environ.get("WANDB_MODE") or os.environ.get("WANDB_API_KEY"):
        return True
    host = urlparse(os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")).hostname or ""
    try:
        return netrc.netrc(os.environ.get("NETRC")).authenticators(host) is not None
    except (OSError, netrc.NetrcParseError):
        return False
