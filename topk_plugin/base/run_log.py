"""Curves, histograms and pictures of a run -> metrics.jsonl and TensorBoard."""

import io
import json
import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from topk_plugin.base.files import atomic_write

# TensorBoard's bins end a little above it, and it raises where none of the values is in a bin.
OUTERMOST = 9e19


class RunLog:
    """``metrics.jsonl`` and ``tensorboard/`` in a run's folder; what is in both agrees.

    Args:
        folder: the run's folder; made if missing.
        resume_step: the run goes on after this step: later entries of an earlier attempt are
            removed from ``metrics.jsonl`` and hidden in TensorBoard. None: a new run.
        events: the folder of TensorBoard's files; default: ``tensorboard`` in ``folder``.
    """

    def __init__(
        self, folder: Path, resume_step: int | None = None, events: Path | None = None
    ) -> None:
        from torch.utils.tensorboard.writer import SummaryWriter  # heavy: only when logging

        self._path = folder / "metrics.jsonl"
        folder.mkdir(parents=True, exist_ok=True)
        if resume_step is not None and self._path.exists():
            self._forget_after(resume_step)
        purge = None if resume_step is None else resume_step + 1
        self._writer = SummaryWriter(str(events or folder / "tensorboard"), purge_step=purge)

    def scalars(self, step: int, values: Mapping[str, Any]) -> None:
        """Log tag -> value at ``step``; a value that is not finite is null in ``metrics.jsonl``.

        Args:
            step: where on the curves.
            values: numbers, NumPy's and tensors of one element too (which synchronises).

        Raises:
            TypeError: a value is not a number; nothing is logged then.
        """
        numbers = {tag: _number(tag, value) for tag, value in values.items()}
        line: dict[str, Any] = {"step": int(step), "time": round(time.time(), 3)}
        for tag, value in numbers.items():
            line[tag] = value if math.isfinite(value) else None
            self._writer.add_scalar(tag, value, step)
        with open(self._path, "a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")

    def histogram(self, step: int, tag: str, values: Tensor) -> None:
        """Log the distribution of the finite ``values`` (any shape) in TensorBoard, if any are."""
        finite = values.detach().cpu().double()
        finite = finite[finite.isfinite()].clamp(-OUTERMOST, OUTERMOST)
        if finite.numel() > 0:
            self._writer.add_histogram(tag, finite, step)

    def image(self, step: int, tag: str, image: Tensor) -> None:
        """Log an image [3, H, W] in [0, 1] in TensorBoard."""
        self._writer.add_image(tag, image, step)

    def close(self) -> None:
        """Write out what is buffered."""
        self._writer.close()

    def _forget_after(self, step: int) -> None:
        kept = io.StringIO()
        for line in self._path.read_text(encoding="utf-8").splitlines():
            try:
                entry = json.loads(line)
            except json.JSONDecodeError:
                break  # the line that a killed run was writing
            if entry["step"] <= step:
                kept.write(line + "\n")
        with atomic_write(self._path) as temporary:
            temporary.write_text(kept.getvalue(), encoding="utf-8")


def _number(tag: str, value: Any) -> int | float:
    """``value`` as a number of Python's own, which JSON can hold."""
    try:
        number = value.item() if hasattr(value, "item") else value
    except (RuntimeError, ValueError):  # several elements
        number = None
    if not isinstance(number, int | float):
        kind = type(value).__name__
        raise TypeError(f"{tag} must be a number or a tensor of one element, not a {kind}: {value}")
    return number
