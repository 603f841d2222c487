"""One setting trained to its end: measured along the way, saved, resumed."""

import hashlib
import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from topk_plugin.base.errors import UserError
from topk_plugin.base.files import atomic_write, remove_leftovers, write_json
from topk_plugin.base.run_log import RunLog
from topk_plugin.mixture.lab.ensemble import Ensemble
from topk_plugin.mixture.lab.field import displacement_field
from topk_plugin.mixture.lab.measures import MEASURES, measure
from topk_plugin.mixture.lab.oracle import analyse
from topk_plugin.mixture.lab.randomness import generator_of
from topk_plugin.mixture.lab.settings import Settings

EVALUATION_STREAM = 2
LAST_PART = 0.2
"""Measures are averaged over this last part of the training: the curves oscillate."""
SNAPSHOT_POINTS = 1000
"""Samples of the first seed kept at each evaluation, for pictures."""
SAVE_SECONDS = 60.0
"""Work that a kill may cost, at most (or one evaluation's, if that is longer)."""
SAMPLES_AT_ONCE = 20_000
"""Rows sampled at once over all replicas times the batch, which bounds the memory."""

RESULT_FILE, STATE_FILE, SNAPSHOT_FILE = "result.json", "state.pt", "snapshots.pt"


def train(
    settings: Settings,
    folder: Path,
    *,
    device: torch.device | str = "cpu",
    analyses: int = 0,
    watch: Callable[[Ensemble], dict[str, Tensor]] | None = None,
    make: Callable[..., Ensemble] = Ensemble,
    progress: Callable[[int], None] = lambda step: None,
) -> dict[str, Any]:
    """Train every arm and seed, or go on where an earlier call was stopped.

    Args:
        settings: what to train.
        folder: gets ``result.json``, ``snapshots.pt``, ``metrics.jsonl``, ``tensorboard/`` and,
            until the end, ``state.pt``.
        device: where.
        analyses: how often the oracle analysis is made along the training, evenly, the last time
            at its end; 0 for never.
        watch: called at each evaluation; what it returns, [arm, seed] each, is recorded.
        make: makes the ensemble, for trainings with another rule for k.
        progress: called with the number of updates done, after each evaluation.

    Returns:
        The content of ``result.json``: ``settings``; ``steps`` [T]; ``series``: measure ->
        [T][arm][seed]; ``histogram`` [arm][seed][bin], averaged over the evaluations in the last
        fifth; ``watched``: name -> [T][arm][seed]; ``k`` [T][arm]; ``oracle``: see
        :func:`topk_plugin.mixture.lab.oracle.analyse`, one a step of analysis, with its ``step``
        and its ``field``, see :func:`topk_plugin.mixture.lab.field.displacement_field`;
        ``seconds``: training time over all attempts.

    Raises:
        UserError: the folder holds a run of other settings.
    """
    identity = _identity(settings, analyses)
    finished = folder / RESULT_FILE
    if finished.exists():
        result: dict[str, Any] = json.loads(finished.read_text(encoding="utf-8"))
        _same_run(result["identity"], identity, folder)
        return result
    remove_leftovers(folder)
    with _without_denormals():
        return _train(settings, folder, identity, analyses, device, watch, make, progress)


@contextmanager
def _without_denormals() -> Iterator[None]:
    """Numbers under 1e-38 are 0: some of Adam's averages shrink so far, and slow a CPU by half."""
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(False)


def _train(
    settings: Settings,
    folder: Path,
    identity: str,
    analyses: int,
    device: torch.device | str,
    watch: Callable[[Ensemble], dict[str, Tensor]] | None,
    make: Callable[..., Ensemble],
    progress: Callable[[int], None],
) -> dict[str, Any]:
    ensemble = make(settings, device=device)
    records: dict[str, Any] = {"steps": [], "k": [], "oracle": [], "watched": {}, "seconds": 0.0}
    records |= {name: [] for name in (*MEASURES, "histogram", "snapshots")}
    state_file = folder / STATE_FILE
    if state_file.exists():
        state = torch.load(state_file, map_location=device, weights_only=True)
        _same_run(state["identity"], identity, folder)
        ensemble.load_state_dict(state["ensemble"])
        records = state["records"]
    log = RunLog(folder, resume_step=records["steps"][-1] if records["steps"] else None)
    evaluations = settings.evaluation_steps
    last = len(evaluations) - 1
    analysed = {evaluations[round(last * i / analyses)] for i in range(1, analyses + 1)}
    latents = _evaluation_latents(settings)
    started = saved = time.monotonic()
    before = records["seconds"]
    for step in evaluations:
        if records["steps"] and step <= records["steps"][-1]:
            continue
        while ensemble.step < step:
            ensemble.train_step()
        _evaluate(ensemble, latents, records, log)
        for name, values in watch(ensemble).items() if watch else ():
            records["watched"].setdefault(name, []).append(values.tolist())
        if step in analysed:
            field = displacement_field(ensemble)
            records["oracle"].append({"step": step, **analyse(ensemble), "field": field})
        now = time.monotonic()
        records["seconds"] = before + now - started
        if now - saved > SAVE_SECONDS and step < settings.steps:
            _save(
                state_file,
                {"identity": identity, "ensemble": ensemble.state_dict(), "records": records},
            )
            saved = now
        progress(step)
    log.close()
    _save(folder / SNAPSHOT_FILE, {"steps": records["steps"], "samples": records["snapshots"]})
    result = _result(settings, identity, records)
    write_json(folder / RESULT_FILE, result, indent=None)
    state_file.unlink(missing_ok=True)
    return result


def _identity(settings: Settings, analyses: int) -> str:
    text = json.dumps([settings.to_json(), analyses], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _same_run(theirs: str, ours: str, folder: Path) -> None:
    if theirs != ours:
        raise UserError(
            f"{folder} holds a run of other settings; give another folder to -save, or remove it"
        )


def _evaluation_latents(settings: Settings) -> Tensor:
    """[S, samples, latent]: a seed's own, the same at every evaluation and in every arm."""
    shape = (settings.samples, settings.latent)
    return torch.stack(
        [
            torch.randn(shape, generator=generator_of(seed, EVALUATION_STREAM))
            for seed in settings.seeds
        ]
    )


def _evaluate(ensemble: Ensemble, latents: Tensor, records: dict[str, Any], log: RunLog) -> None:
    settings = ensemble.settings
    rows = max(1, SAMPLES_AT_ONCE // len(settings.arms) // len(settings.seeds))
    samples = torch.cat([ensemble.sample(part) for part in latents.split(rows, dim=1)], dim=2)
    measured = measure(samples, settings.target)
    _note_diverged(settings, ensemble.step, samples, records)
    records["steps"].append(ensemble.step)
    records["k"].append([arm.k(ensemble.step, settings.batch) for arm in settings.arms])
    scalars = {}
    for name, values in measured.items():
        records[name].append(values.tolist())
        if name in MEASURES:
            for arm, value in zip(settings.arms, values.mean(-1).tolist(), strict=True):
                scalars[f"{name}/{arm.name}"] = value
    for arm, k in zip(settings.arms, records["k"][-1], strict=True):
        scalars[f"topk/k/{arm.name}"] = k
    log.scalars(ensemble.step, scalars)
    # a copy, since a slice would keep (and save) all samples
    records["snapshots"].append(samples[:, 0, :SNAPSHOT_POINTS].to("cpu", torch.float32, copy=True))


def _note_diverged(settings: Settings, step: int, samples: Tensor, records: dict[str, Any]) -> None:
    """Name the replicas whose samples [arm, seed, n, 2] are no longer finite, once each."""
    noted: list[dict[str, Any]] = records.setdefault("diverged", [])
    finite = torch.isfinite(samples).flatten(2).all(-1).tolist()
    for arm, of_seeds in zip(settings.arms, finite, strict=True):
        for seed, is_finite in zip(settings.seeds, of_seeds, strict=True):
            known = any((n["arm"], n["seed"]) == (arm.name, seed) for n in noted)
            if not is_finite and not known:
                noted.append({"arm": arm.name, "seed": seed, "step": step})


def _result(settings: Settings, identity: str, records: dict[str, Any]) -> dict[str, Any]:
    late = torch.tensor(records["steps"]) > settings.steps * (1 - LAST_PART)
    histogram = torch.tensor(records["histogram"], dtype=torch.float64)[late].mean(0)
    return {
        "identity": identity,
        "settings": settings.to_json(),
        "steps": records["steps"],
        "series": {name: records[name] for name in MEASURES},
        "histogram": histogram.tolist(),
        "watched": records["watched"],
        "k": records["k"],
        "oracle": records["oracle"],
        "seconds": records["seconds"],
        "diverged": records["diverged"],
    }


def _save(path: Path, content: Any) -> None:
    with atomic_write(path) as temporary:
        torch.save(content, temporary)
