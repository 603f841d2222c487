"""What was typed -> the folders of runs, and short names for them."""

from collections.abc import Sequence
from pathlib import Path

from topk_plugin.base.errors import UserError
from topk_plugin.report.events import PATTERN

SCALARS, EVENTS, CONFIG = "metrics.jsonl", "tensorboard", "config.yaml"


def run_folders(paths: Sequence[Path]) -> list[Path]:
    """The run folders at ``paths``, each once, in the order given.

    A path is the folder of a run (of the built-in trainer, of a ``RunLog``, or any with event files
    of TensorBoard), or StudioGAN's ``-save`` folder, which may hold several.

    Raises:
        UserError: there is no run at a path.
    """
    found = [folder for path in paths for folder in _at(path)]
    return list({folder.resolve(): folder for folder in found}.values())


def event_folder(folder: Path) -> Path:
    """Where a run's event files are: beside its other files, or in ``tensorboard``."""
    return folder if any(folder.glob(PATTERN)) else folder / EVENTS


def short_names(folders: Sequence[Path]) -> list[str]:
    """A name for each folder: its last parts, as few as tell all of them apart."""
    parts = [folder.resolve().parts for folder in folders]
    for length in range(1, max(map(len, parts)) + 1):
        names = ["/".join(of[-length:]) for of in parts]
        if len(set(names)) == len(names):
            break
    return names


def _at(path: Path) -> list[Path]:
    if not path.is_dir():
        raise UserError(f"{path} is no folder; give the folder of a run (-save of `train`)")
    if _is_run(path):
        return [path]
    inside = path / EVENTS
    several = [p for p in sorted(inside.iterdir()) if _is_run(p)] if inside.is_dir() else []
    if several:
        return several
    below = [p.name for p in sorted(path.iterdir()) if p.is_dir() and _is_run(p)]
    hint = f"; there are runs in it: {', '.join(below)}" if below else ""
    raise UserError(
        f"{path} holds no run: no {SCALARS}, no {CONFIG} and no event files of TensorBoard{hint}. "
        "Give the folder of a run or of a study"
    )


def _is_run(folder: Path) -> bool:
    if any((folder / name).is_file() for name in (SCALARS, CONFIG)):
        return True
    return any(any(place.glob(PATTERN)) for place in (folder, folder / EVENTS))
