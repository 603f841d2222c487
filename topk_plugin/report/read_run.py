"""A run's folder -> what a report knows of it. Works while the run goes on."""

import json
import re
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from topk_plugin.base.notices import read_notices
from topk_plugin.base.run_log import CONFIG, ENVIRONMENT, RESULT
from topk_plugin.engine.run_folder import TRAINED_BY, is_in_use
from topk_plugin.report.events import read_events
from topk_plugin.report.find import SCALARS, event_folder
from topk_plugin.report.run import SAMPLES, Notice, Picture, Run
from topk_plugin.report.scalars_file import read_scalars

_STEP = re.compile(r"step_(\d+)\.png")
_LONG = 10 * 60  # seconds without a log entry after which "running" is a guess too far


def read_run(folder: Path, name: str) -> Run:
    """Read what is there; what a run has not left yet is empty.

    Args:
        folder: of a run, see :func:`topk_plugin.report.find.run_folders`.
        name: what the page calls it.
    """
    environment, result = _json(folder / ENVIRONMENT), _json(folder / RESULT)
    config = _yaml(folder / CONFIG)
    events = read_events(event_folder(folder))
    file = folder / SCALARS
    scalars = read_scalars(file) if file.is_file() else events.scalars
    pictures = {tag: found for tag, found in events.pictures.items() if found}
    pictures |= _samples(folder)
    names = environment.get("class_names") or ()
    run = Run(
        name=name,
        folder=folder,
        trained_by=str(environment.get("trained_by") or _guessed_trainer(folder, environment)),
        state="",
        total_steps=_total_steps(config, result),
        settings=dict(_flat(config)),
        environment=environment,
        result=result,
        measured_with=result.get("measured_with") or environment.get("measured_with") or {},
        scalars=scalars,
        histograms=events.histograms,
        pictures=pictures,
        class_names=tuple(map(str, names)),
        notices=_notices(folder, environment),
    )
    in_use = is_in_use(folder)
    state = _state(run, in_use=in_use, last_entry=_last_written(folder))
    # the result of an earlier, shorter training in the same folder is not this one's
    return replace(run, state=state, result={} if in_use else result)


def _state(run: Run, *, in_use: bool, last_entry: float | None) -> str:
    if in_use:
        return "running"
    status = run.result.get("status")
    if status and (run.total_steps is None or run.result.get("steps", 0) >= run.total_steps):
        return str(status)
    if status == "diverged":
        return "diverged"
    if run.trained_by == TRAINED_BY:  # which holds a lock while it runs
        return "stopped; -ckpt auto goes on"
    if run.total_steps is not None and run.last_step >= run.total_steps:
        return "finished"
    if last_entry is not None and time.time() - last_entry < _LONG:
        return "running"
    return "stopped, or silent for long"


def _last_written(folder: Path) -> float | None:
    """When a file with curves was last written to; seconds since 1970."""
    files = [folder / SCALARS, *event_folder(folder).glob("events.out.tfevents.*")]
    times = [file.stat().st_mtime for file in files if file.exists()]
    return max(times, default=None)


def _guessed_trainer(folder: Path, environment: Mapping[str, Any]) -> str:
    if environment.get("options") is not None:
        return TRAINED_BY
    if folder.parent.name == "tensorboard":
        return "PyTorch-StudioGAN with topk-plugin"
    return "a training loop that left no more than its log"


def _total_steps(config: Mapping[str, Any], result: Mapping[str, Any]) -> int | None:
    section = config.get("OPTIMIZATION")
    steps = section.get("total_steps") if isinstance(section, dict) else config.get("total_steps")
    if isinstance(steps, int):
        return steps
    return result.get("steps") if isinstance(result.get("steps"), int) else None


def _samples(folder: Path) -> dict[str, list[Picture]]:
    files = ((_STEP.fullmatch(p.name), p) for p in (folder / SAMPLES).glob("step_*.png"))
    found = sorted((int(match[1]), path) for match, path in files if match)
    return {SAMPLES: [Picture(step, path) for step, path in found]} if found else {}


def _notices(folder: Path, environment: Mapping[str, Any]) -> list[Notice]:
    before = environment.get("notes")
    texts = [Notice(str(text)) for text in before] if isinstance(before, list) else []
    return texts + [Notice(text, step) for step, text in read_notices(folder)]


def _json(file: Path) -> dict[str, Any]:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _yaml(file: Path) -> dict[str, Any]:
    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError):
        return {}
    return content if isinstance(content, dict) else {}


def _flat(tree: Mapping[Any, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Nested settings as SECTION.key -> text."""
    for key, value in tree.items():
        name = f"{prefix}{key}"
        if isinstance(value, dict) and value:
            yield from _flat(value, f"{name}.")
        else:
            yield name, _text(value)


def _text(value: Any) -> str:
    if value is None:
        return "none"
    if isinstance(value, list | tuple):
        return ", ".join(_text(each) for each in value) or "(empty)"
    return str(value)
