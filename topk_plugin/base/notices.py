"""notices.jsonl: what a training said about itself, kept beside its curves."""

import json
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

FILE = "notices.jsonl"


def write_notice(folder: Path, text: str, step: int | None = None) -> None:
    """Add a line to ``folder``'s notices.

    Args:
        folder: of the run.
        text: a sentence.
        step: when; None: before the first step.
    """
    with open(folder / FILE, "a", encoding="utf-8") as file:
        file.write(json.dumps({"step": step, "text": text}) + "\n")


def read_notices(folder: Path) -> list[tuple[int | None, str]]:
    """(step, text) of each; equal texts once, at their first step; [] where there are none."""
    try:
        lines = (folder / FILE).read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []
    found: dict[str, int | None] = {}
    for line in lines:
        try:
            entry = json.loads(line)
            text, step = str(entry["text"]), entry["step"]
        except (ValueError, KeyError, TypeError):  # half written
            continue
        found.setdefault(text, step if isinstance(step, int) else None)
    return [(step, text) for text, step in found.items()]


@contextmanager
def kept_warnings(keep: Callable[[str], None]) -> Iterator[None]:
    """Give ``keep`` the text of each warning that is shown in this block; it is shown as before.

    What filters silence, or show once only, is kept as often as it is shown.
    """
    before = warnings.showwarning

    def show(
        message: Warning | str,
        category: type[Warning],
        filename: str,
        lineno: int,
        file: Any = None,
        line: str | None = None,
    ) -> None:
        keep(f"{category.__name__}: {message}")
        before(message, category, filename, lineno, file, line)

    warnings.showwarning = show
    try:
        yield
    finally:
        if warnings.showwarning is show:
            warnings.showwarning = before
