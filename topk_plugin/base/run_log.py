"""Curves, histograms and pictures of a run -> metrics.jsonl and TensorBoard."""

import io
import json
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from torch import Tensor

from topk_plugin.base.extras import describe_missing
from topk_plugin.base.files import atomic_write, unwritable, write_json
from topk_plugin.base.notices import kept_warnings, write_notice
from topk_plugin.base.tensorboard_layout import LAYOUT

CONFIG, ENVIRONMENT, RESULT = "config.yaml", "environment.json", "result.json"

# TensorBoard's bins end a little above it, and it raises where none of the values is in a bin.
OUTERMOST = 9e19


class RunLog:
    """``metrics.jsonl`` and ``tensorboard/`` in a run's folder; what is in both agrees.

    As a context manager it keeps the warnings that are shown inside, for ``topk-plugin report``,
    and closes::

        with RunLog(Path("runs/mine")) as log:
            log.describe({"lr": 2e-4, "batch": 64})
            ...
            log.finish({"fid": 12.3})

    Args:
        folder: the run's folder; made if missing.
        resume_step: the run goes on after this step: later entries of an earlier attempt are
            removed from ``metrics.jsonl`` and hidden in TensorBoard. None: a new run.
        events: the folder of TensorBoard's files; default: ``tensorboard`` in ``folder``.

    Raises:
        ModuleNotFoundError: TensorBoard is not installed (the extra "train" brings it).
    """

    def __init__(
        self, folder: Path, resume_step: int | None = None, events: Path | None = None
    ) -> None:
        try:
            from torch.utils.tensorboard.writer import SummaryWriter  # heavy: only when logging
        except ModuleNotFoundError as error:
            sentence = describe_missing("RunLog", ["tensorboard"])
            raise ModuleNotFoundError(sentence, name=error.name) from error

        self._folder, self._path = folder, folder / "metrics.jsonl"
        folder.mkdir(parents=True, exist_ok=True)
        if resume_step is not None and self._path.exists():
            self._forget_after(resume_step)
        purge = None if resume_step is None else resume_step + 1
        self._events = events or folder / "tensorboard"
        with _said(self._events):
            self._writer = SummaryWriter(str(self._events), purge_step=purge)
            self._writer.add_custom_scalars(LAYOUT)
        self._step = 0 if resume_step is None else max(0, resume_step)
        self._around = ExitStack()

    def __enter__(self) -> Self:
        self._around.enter_context(kept_warnings(self.notice))
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._around.close()
        self.close()

    def scalars(self, step: int, values: Mapping[str, Any]) -> None:
        """Log tag -> value at ``step``; a value that is not finite is null in ``metrics.jsonl``.

        Args:
            step: where on the curves.
            values: numbers, NumPy's and tensors of one element too (which synchronises).

        Raises:
            TypeError: a value is not a number; nothing is logged then.
            UserError: a file can't be written.
        """
        numbers = {tag: _number(tag, value) for tag, value in values.items()}
        line: dict[str, Any] = {"step": int(step), "time": round(time.time(), 3)}
        with _said(self._events):
            for tag, value in numbers.items():
                line[tag] = value if math.isfinite(value) else None
                self._writer.add_scalar(tag, value, step)
        with _said(self._path), open(self._path, "a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        self._step = int(step)

    def histogram(self, step: int, tag: str, values: Tensor) -> None:
        """Log the distribution of the finite ``values`` (any shape) in TensorBoard, if any are."""
        finite = values.detach().cpu().double()
        finite = finite[finite.isfinite()].clamp(-OUTERMOST, OUTERMOST)
        if finite.numel() > 0:
            with _said(self._events):
                self._writer.add_histogram(tag, finite, step)

    def image(self, step: int, tag: str, image: Tensor) -> None:
        """Log an image [3, H, W] in [0, 1] in TensorBoard."""
        with _said(self._events):
            self._writer.add_image(tag, image, step)

    def notice(self, text: str) -> None:
        """Keep a sentence about the run, such as a warning, at the step that was logged last."""
        write_notice(self._folder, text, self._step)

    # --- what a loop of one's own leaves beside its curves ---------------------------------

    def describe(
        self,
        settings: Mapping[str, Any],
        *,
        metrics: Sequence[str] = (),
        class_names: Sequence[str] = (),
        trained_by: str = "a training loop of its own",
    ) -> None:
        """Write ``config.yaml`` and ``environment.json``, and the settings for HParams.

        Args:
            settings: names -> text, numbers, True/False, None, or lists and mappings of these.
                ``total_steps`` is read by reports.
            metrics: the names of those that will be logged as ``metric/<name>``.
            class_names: in the order of labels.
            trained_by: in words.

        Raises:
            UserError: a file can't be written.
        """
        import yaml  # only here: importing the package brings torch alone

        from topk_plugin.base.environment import environment

        with atomic_write(self._folder / CONFIG) as temporary:
            text = yaml.safe_dump(dict(settings), sort_keys=False, allow_unicode=True)
            temporary.write_text(text, encoding="utf-8")
        facts = {"trained_by": trained_by, "class_names": list(class_names)}
        write_json(self._folder / ENVIRONMENT, environment() | facts)
        self.hparams(settings, metrics)

    def samples(self, step: int, images: Tensor, *, columns: int = 10) -> None:
        """Write generated images as ``samples/step_<step>.png``; give the same latents every time.

        Args:
            step: when.
            images: [N, C, H, W] in [-1, 1]: grey (C = 1), or red, green and blue first.
            columns: images a row.

        Raises:
            UserError: the file can't be written.
        """
        from topk_plugin.base.sample_sheet import write_sheet

        write_sheet(self._folder / "samples" / f"step_{int(step):06d}.png", images, columns)

    def hparams(self, settings: Mapping[str, Any], metrics: Sequence[str] = ()) -> None:
        """Show settings in TensorBoard's tab HParams, beside the last values of metrics.

        Once a run, at its start: TensorBoard looks at the first call only.

        Args:
            settings: see :meth:`describe`; nested names are joined by dots.
            metrics: names, of which ``metric/<name>`` is or will be logged; (): all scalars.
        """
        from torch.utils.tensorboard.summary import hparams

        tags = {f"metric/{name}": 0.0 for name in metrics}
        experiment, start, _ = hparams(_flat(settings), tags)
        self._add_summaries(*([experiment] if metrics else []), start)

    def _add_summaries(self, *summaries: Any) -> None:
        # SummaryWriter.add_hparams would open a run of its own in a folder below
        with _said(self._events):
            for summary in summaries:
                self._writer._get_file_writer().add_summary(summary)

    def finish(self, metrics: Mapping[str, float] | None = None) -> None:
        """Say that the run is over: log ``metric/<name>`` and write ``result.json``.

        Args:
            metrics: name -> final value.

        Raises:
            UserError: the file can't be written.
        """
        final = {name: float(value) for name, value in (metrics or {}).items()}
        if final:
            self.scalars(self._step, {f"metric/{name}": value for name, value in final.items()})
        content = {"status": "finished", "steps": self._step, "metrics": final}
        write_json(self._folder / RESULT, content)
        self.end_hparams()

    def end_hparams(self) -> None:
        """Show in TensorBoard's tab HParams that the run is over."""
        from torch.utils.tensorboard.summary import hparams

        self._add_summaries(hparams({}, {})[2])

    def close(self) -> None:
        """Write out what is buffered.

        Raises:
            UserError: it can't be written.
        """
        with _said(self._events):
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


def _flat(settings: Mapping[str, Any], prefix: str = "") -> dict[str, bool | float | str]:
    """Nested settings as one level of what HParams can show."""
    flat: dict[str, bool | float | str] = {}
    for name, value in settings.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{name}.")
        else:
            flat[f"{prefix}{name}"] = value if isinstance(value, bool | int | float) else str(value)
    return flat


@contextmanager
def _said(path: Path) -> Iterator[None]:
    """A failure of the disk in a sentence; TensorBoard's writing thread hands its own on to us."""
    try:
        yield
    except OSError as error:
        raise unwritable(path, error) from error


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
