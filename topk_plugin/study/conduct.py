"""From a study to its report: plan, runs, verdicts, and going on where it was left."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from topk_plugin.engine.data.images import ImageSet
from topk_plugin.evaluation.evaluator import Evaluator
from topk_plugin.study import precision as precisions
from topk_plugin.study.live_table import table
from topk_plugin.study.page import FILE, write_study_page
from topk_plugin.study.plan import make_plan
from topk_plugin.study.report import write_report
from topk_plugin.study.results import Results, undecided_gans
from topk_plugin.study.scheduler import jobs_at_once, run_all
from topk_plugin.study.sequential import PAIRS
from topk_plugin.study.spec import Data, RunSpec
from topk_plugin.study.study import AUTO, Arm, Study, most_seeds, runs_of
from topk_plugin.study.worker import RESULT, open_both


@dataclass(frozen=True)
class Request:
    """What is asked for, beside the study itself.

    Attributes:
        data: the images.
        root: folder of the runs.
        save: folder of the report.
        command: what was typed, for the report: without folders.
        device: "cpu" or "cuda".
        threads: CPU threads of a run.
        jobs: runs at once; None: as many as cores and memory allow, on a GPU one.
        inception_weights: their file, or None.
        studiogan: a checkout whose trainer is used, or None.
        gans: only these, and the baselines that they are compared with.
        arms: these and the baseline in place of the study's.
        seeds: so many in place of the study's.
        dry_run: only print the plan.
        report: only write the report.
    """

    data: Data
    root: Path
    save: Path
    command: str
    device: str
    threads: int = 1
    jobs: int | None = None
    inception_weights: str | None = None
    studiogan: str | None = None
    gans: tuple[str, ...] | None = None
    arms: tuple[Arm, ...] | None = None
    seeds: int | None = None
    dry_run: bool = False
    report: bool = False


def conduct(study: Study, request: Request, say: Callable[[str], None]) -> None:
    """Plan, run and report.

    Args:
        study: which.
        request: how, and how much of it.
        say: prints a line for people; the plan, the table and the report's place go to standard
            output.

    Raises:
        UserError: a config, the data, a folder or a run is at fault; see there.
        topk_plugin.study.scheduler.Stopped: asked to stop; the same call goes on.
    """
    train = test = None
    if not request.report:
        config = study.gans[0].config_of(study.gans[0].arms[0])
        train, test = open_both(request.data, config)
    specs = _specs(study, request, train, asked_only=True)
    everything = _everything(study, request, train, specs)
    if train is not None and test is not None:
        specs, everything = _planned(study, request, train, test, specs, everything)
        if request.dry_run:
            return
        _prepare(study, specs[0], train, test)
        # before any time is spent: are the runs of both sittings measured alike?
        Results.read(study, everything, request.root)
        _run(study, request, specs, everything, say)
    _report(study, everything, request)
    print(table(specs, request.root))
    print(f"report: {request.save / 'README.md'}, {request.save / FILE}")


def _report(study: Study, everything: Sequence[RunSpec], request: Request) -> None:
    results = Results.read(study, everything, request.root)
    write_report(results, request.save, request.command, root=request.root)
    write_study_page(results, request.save, request.command, root=request.root)


def _specs(
    study: Study, request: Request, train: ImageSet | None, *, asked_only: bool, **more: Any
) -> list[RunSpec]:
    precision, choice = study.precision, None
    if precision == AUTO:
        choice = precisions.chosen_before(request.root)
        precision = "fp32" if choice is None else choice["precision"]
    given: dict[str, Any] = {
        "data": request.data,
        "images": None if train is None else len(train),
        "device": request.device,
        "threads": request.threads,
        "inception_weights": request.inception_weights,
        "precision": precision,
        "studiogan": request.studiogan,
        "seeds": request.seeds or most_seeds(study),
    }
    if asked_only:
        given |= {"gans": request.gans, "arms": request.arms}
    return [replace(spec, precision_choice=choice) for spec in runs_of(study, **given | more)]


def _everything(
    study: Study, request: Request, train: ImageSet | None, specs: Sequence[RunSpec]
) -> list[RunSpec]:
    """What the report is about: a call that asks for less leaves the rest of the study in it."""
    found = {spec.name: spec for spec in specs}
    for spec in _specs(study, request, train, asked_only=False):
        found.setdefault(spec.name, spec)
    for spec in _specs(study, request, train, asked_only=False, seeds=None):
        if (request.root / spec.name / RESULT).exists():
            found.setdefault(spec.name, spec)
    return list(found.values())


def _planned(
    study: Study,
    request: Request,
    train: ImageSet,
    test: ImageSet,
    specs: list[RunSpec],
    everything: list[RunSpec],
) -> tuple[list[RunSpec], list[RunSpec]]:
    """Print the plan; the runs in the precision that it chose."""
    if not request.dry_run and all((request.root / s.name / RESULT).exists() for s in specs):
        return specs, everything
    threads = torch.get_num_threads()
    torch.set_num_threads(request.threads)  # as a run has them
    try:
        plan = make_plan(study, specs, train, test, root=request.root, at_once=_at_once(request))
    finally:
        torch.set_num_threads(threads)
    print(plan.text, flush=True)
    if plan.choice is None:
        return specs, everything
    if not request.dry_run:
        precisions.keep(plan.choice, request.root)
    chosen: dict[str, Any] = {
        "precision": plan.choice["precision"],
        "precision_choice": plan.choice,
    }
    return plan.specs, [replace(spec, **chosen) for spec in everything]


def _at_once(request: Request) -> int:
    return request.jobs or (1 if request.device != "cpu" else jobs_at_once(request.threads))


def _run(
    study: Study,
    request: Request,
    specs: Sequence[RunSpec],
    everything: Sequence[RunSpec],
    say: Callable[[str], None],
) -> None:
    def after_each() -> None:
        _report(study, everything, request)
        say(table(specs, request.root))

    for count in PAIRS if study.sequential else (None,):
        now = list(specs)
        if count is not None:
            first = {gan.name: gan.first_seed for gan in study.gans}
            now = [spec for spec in specs if spec.seed < first[spec.gan] + count]
            results = Results.read(study, everything, request.root)
            if count > study.fewest and any(True for _ in results.all()):
                still = undecided_gans(results)
                needed = {results.reference(gan) for gan in still}
                now = [spec for spec in now if spec.gan in needed.union(still)]
        run_all(now, request.root, at_once=_at_once(request), say=say, after_each=after_each)


def _prepare(study: Study, spec: RunSpec, train: ImageSet, test: ImageSet) -> None:
    """Train the extractor, and fill its caches, once and not in every run."""
    weights = spec.inception_weights
    for reference in (train, test):
        Evaluator(
            reference,
            metrics=["fid"],
            extractor=study.extractor,
            inception_weights=None if weights is None else Path(weights),
            device=torch.device(spec.device),
            seed=0,
            extractor_data=train,
        )
