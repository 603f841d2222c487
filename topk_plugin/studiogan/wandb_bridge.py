"""Stands in for the module ``wandb`` inside StudioGAN: TensorBoard always, wandb if it can be."""

import functools
import importlib
import importlib.util
import netrc
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from PIL.Image import Image
from torch import Tensor

from topk_plugin.base.run_log import RunLog

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

# Each lets wandb start without a question.
SETTINGS = ("WANDB_MODE", "WANDB_API_KEY", "WANDB_IDENTITY_TOKEN_FILE")

# wandb's own server, by its present and its former name; older keys are kept under the latter.
HOSTS = {"api.forge.coreweave.com", "api.wandb.ai"}


class Picture:
    """What :meth:`WandbBridge.Image` returns: images [N, 3, H, W] in [-1, 1] as one grid.

    Attributes:
        grid: [3, rows * H, columns * W] and 2 pixels around each image, in [0, 1].
    """

    def __init__(self, images: Tensor) -> None:
        from torchvision.utils import make_grid  # slow to import; most commands need no pictures

        grid = make_grid(images.detach().float().cpu(), nrow=8, pad_value=1.0)
        self.grid = grid.add(1).div(2).clamp(0, 1)

    def as_pil(self) -> Image:
        """The grid for ``wandb.Image``, which has to guess the range of a tensor."""
        from torchvision.transforms.functional import to_pil_image

        return to_pil_image(self.grid)


class WandbBridge:
    """Has what StudioGAN uses of ``wandb``, and passes on to the package where it is set up.

    Only a process that has called :meth:`init` logs: StudioGAN's first one.

    Attributes:
        resume_step: step that a resumed run goes on from; set it before StudioGAN calls ``init``.
        run_log: where the events go; None before ``init`` and after ``finish``.
    """

    def __init__(self) -> None:
        self.resume_step: int | None = None
        self.run_log: RunLog | None = None
        self._package: Any = None  # while a run of it is on

    def init(self, *, dir: str, name: str, **options: Any) -> None:
        """Open ``dir/tensorboard/name``, and a wandb run where it is set up.

        Args:
            dir, name, options: as ``wandb.init`` has them.
        """
        folder = Path(dir) / "tensorboard" / name
        # entered, so that it keeps warnings, until finish()
        self.run_log = RunLog(folder, self.resume_step, events=folder).__enter__()
        trouble = _no_wandb() or self._start_package(dir=dir, name=name, **options)
        if trouble is None:
            print(f"Logging to TensorBoard ({folder}) and to wandb.", flush=True)
        else:
            print(f"Logging to TensorBoard only ({folder}): {trouble}.", flush=True)

    def _start_package(self, **options: Any) -> str | None:
        """Start a run of wandb's; returns why it does not start, None if it does."""
        try:
            package: Any = importlib.import_module("wandb")
            package.init(**options)
        except Exception as error:  # no network, a wrong key, a broken installation
            said = str(error).strip() or type(error).__name__
            return f"wandb does not start ({said.splitlines()[0]}); WANDB_MODE=offline needs no net"
        self._package = package
        return None

    def log(self, values: Mapping[str, Any], step: int) -> None:
        """Log numbers and pictures; TensorBoard leaves out all else."""
        if self.run_log is None:
            return
        pictures = {name: v for name, v in values.items() if isinstance(v, Picture)}
        numbers = {tag(name): n for name, v in values.items() if (n := _number(v)) is not None}
        if numbers:
            self.run_log.scalars(step, numbers)
        for name, picture in pictures.items():
            self.run_log.image(step, f"samples/{name}", picture.grid)
        if self._package is not None:
            shown = {n: self._package.Image(p.as_pil()) for n, p in pictures.items()}
            self._package.log({**values, **shown}, step=step)

    def Image(self, images: Tensor) -> Picture:
        """A batch for :meth:`log`; wandb's own class of this name takes no batches any more."""
        return Picture(images)

    def finish(self) -> None:
        """Close both."""
        if self.run_log is not None:
            self.run_log.__exit__(None, None, None)
            self.run_log = None
        if self._package is not None:
            self._package.finish()
            self._package = None

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):  # what Python asks of a module
            raise AttributeError(name)
        try:
            return getattr(importlib.import_module("wandb"), name)
        except ModuleNotFoundError:
            raise AttributeError(
                f"wandb.{name} needs the package wandb: pip install wandb"
            ) from None


@functools.cache
def bridge() -> WandbBridge:
    """The one of this process."""
    return WandbBridge()


def tag(name: str) -> str:
    """TensorBoard's tag for a name of StudioGAN's."""
    return TAGS.get(name, f"studiogan/{name}")


def _number(value: Any) -> float | None:
    try:
        return float(value)
    except (TypeError, ValueError):
        return None


def _no_wandb() -> str | None:
    """Why wandb stays out; None where it is set up."""
    if not any(os.environ.get(name) for name in SETTINGS) and not _has_account():
        return "wandb has no account here; `wandb login` or WANDB_MODE lets it in"
    if importlib.util.find_spec("wandb") is None:
        return "wandb is set up, but not installed: pip install wandb"
    return None


def _has_account() -> bool:
    """Whether ``wandb login`` has left a key, which it does in the netrc file."""
    given = os.environ.get("WANDB_BASE_URL")
    hosts = {urlsplit(given).netloc} if given else HOSTS
    names = [Path.home() / ".netrc", Path.home() / "_netrc"]
    named = os.environ.get("NETRC")
    for path in [Path(named).expanduser()] if named else names:
        try:
            return not hosts.isdisjoint(netrc.netrc(path).hosts)
        except (OSError, netrc.NetrcParseError):
            continue
    return False
