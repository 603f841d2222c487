"""What is done and measured so far, as a table that is drawn anew in its place."""

import json
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from topk_plugin.study.results import DECIDING, MEASURES
from topk_plugin.study.spec import RunSpec
from topk_plugin.study.worker import RESULT

SECONDS = 2.0
_TAIL = 65_536  # bytes of a log: many entries, the last measurement among them
_UP_AND_CLEAR = "\x1b[{lines}F\x1b[J"


class LiveTable:
    """The table on a terminal; on anything else it stays silent.

    Args:
        specs: the runs.
        root: folder of all runs.
    """

    def __init__(self, specs: Sequence[RunSpec], root: Path) -> None:
        self._specs, self._root = specs, root
        self._lines = 0
        self._shown_at = -SECONDS

    def show(self, below: str) -> None:
        """Draw it, with a line under it, if the last time is a while ago."""
        if not sys.stderr.isatty() or time.monotonic() - self._shown_at < SECONDS:
            return
        self.clear()
        width = os.get_terminal_size(sys.stderr.fileno()).columns
        lines = [*table(self._specs, self._root).splitlines(), below]
        print("\n".join(line[: width - 1] for line in lines), file=sys.stderr, flush=True)
        self._lines, self._shown_at = len(lines), time.monotonic()

    def clear(self) -> None:
        """Take it away, so that a line for people can stand there."""
        if self._lines:
            print(_UP_AND_CLEAR.format(lines=self._lines), end="", file=sys.stderr, flush=True)
        self._lines, self._shown_at = 0, -SECONDS


def table(specs: Sequence[RunSpec], root: Path) -> str:
    """A line a GAN and arm: runs and steps done, and the last distance of each seed."""
    groups: dict[tuple[str, str], list[RunSpec]] = {}
    for spec in specs:
        groups.setdefault((spec.gan, spec.arm), []).append(spec)
    gans, arms = (max(len(key[i]) for key in groups) for i in (0, 1))
    gans, arms = max(gans, 3), max(arms, 3)
    lines = [
        f"{'GAN':{gans}} {'arm':{arms}} {'runs done':>10} {'steps done':>20}  last distance by seed"
    ]
    for (gan, arm), runs in groups.items():
        folders = [root / run.name for run in runs]
        done = [(folder / RESULT).exists() for folder in folders]
        steps = sum(
            run.steps if over else last_step(folder)
            for run, folder, over in zip(runs, folders, done, strict=True)
        )
        measured = [last_distance(folder) for folder in folders]
        shown = " ".join("-" if value is None else f"{value:.3g}" for value in measured)
        of_steps = f"{steps:,} of {sum(run.steps for run in runs):,}"
        lines.append(
            f"{gan:{gans}} {arm:{arms}} {f'{sum(done)} of {len(runs)}':>10} {of_steps:>20}  {shown}"
        )
    return "\n".join(lines)


def last_step(folder: Path) -> int:
    """The last step that the run in ``folder`` logged."""
    return next((int(entry["step"]) for entry in _entries(folder) if "step" in entry), 0)


def last_distance(folder: Path) -> float | None:
    """The last distance that the run in ``folder`` logged."""
    names = [f"metric/{name}" for name in DECIDING if name in MEASURES]
    for entry in _entries(folder):
        for name in names:
            if entry.get(name) is not None:
                return float(entry[name])
    return None


def _entries(folder: Path) -> list[dict[str, Any]]:
    """The last entries of a run's log, the newest first."""
    log = folder / "metrics.jsonl"
    try:
        with open(log, "rb") as file:
            file.seek(max(0, log.stat().st_size - _TAIL))
            lines = file.read().splitlines()
    except FileNotFoundError:
        return []
    found = []
    for line in reversed(lines):
        try:
            entry = json.loads(line)
        except ValueError:  # cut off by the seek, or half written
            continue
        if isinstance(entry, dict):
            found.append(entry)
    return found
