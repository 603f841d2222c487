"""Paired runs of GANs with and without top-k, from seconds to the paper's claim in full.

    python -m benchmarks.reproduce --preset smoke                     # does everything run?
    python -m benchmarks.reproduce --preset cpu                       # hours on 2 CPU cores
    python -m benchmarks.reproduce --preset paper --dry-run           # the plan of the full run

Runs of one GAN and seed have the same initial weights, data order, latents and augmentation in
every arm. Stopped (Ctrl-C, a kill), the same command goes on from the last checkpoints. The report
is written anew after every run, from all runs that are finished. See docs/reproduction.md.
"""

import argparse
import shlex
import sys
from pathlib import Path
from typing import Any

import torch

from benchmarks.paper.presets import ARMS, PRESETS, Preset, config_of, runs_of
from topk_plugin.base.errors import UserError
from topk_plugin.engine.data.images import ImageSet
from topk_plugin.evaluation.evaluator import Evaluator
from topk_plugin.studiogan.checkout import source_folder
from topk_plugin.study.plan import describe
from topk_plugin.study.report import write_report
from topk_plugin.study.scheduler import Stopped, jobs_at_once, run_all, table
from topk_plugin.study.spec import Data, RunSpec
from topk_plugin.study.worker import RESULT, open_both


def main(arguments: list[str] | None = None) -> int:
    given = sys.argv[1:] if arguments is None else arguments
    options = _parser().parse_args(given)
    try:
        return _run(options, _command(given))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except Stopped:
        print("stopped; the same command goes on", file=sys.stderr)
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="Paired GAN runs with and without top-k.")
    parser.add_argument("--preset", choices=list(PRESETS), required=True)
    parser.add_argument("--gan", nargs="+", help="only these of the preset's GANs")
    parser.add_argument(
        "--arm", nargs="+", choices=list(ARMS), help="in place of the preset's (with the baseline)"
    )
    parser.add_argument("--seeds", type=_count, help="how many, in place of the preset's")
    parser.add_argument("--data", metavar="PATH", help="training images; default: torchvision's")
    parser.add_argument("--test_data", metavar="PATH", help="test images, where --data has none")
    parser.add_argument("--runs", type=Path, help="folder of the runs; default runs/PRESET")
    parser.add_argument("--save", type=Path, help="the report's folder; default report/ in --runs")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--inception_weights", metavar="FILE")
    parser.add_argument("--engine", choices=("builtin", "studiogan"), default="builtin")
    parser.add_argument("--studiogan", metavar="CHECKOUT", help="for --engine studiogan")
    parser.add_argument("--threads", type=_count, default=1, help="CPU threads of a run")
    parser.add_argument(
        "--jobs", type=_count, help="runs at once; default: as cores and memory allow"
    )
    parser.add_argument("--dry-run", action="store_true", help="print the plan, timed, and stop")
    parser.add_argument("--report", action="store_true", help="only write the report")
    return parser


def _count(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is less than 1")
    return value


def _run(options: argparse.Namespace, command: str) -> int:
    preset = PRESETS[options.preset]
    config = config_of(preset.gans[0], "topk")
    data = Data(config.DATA.name, _absolute(options.data), _absolute(options.test_data))
    train, test = open_both(data, config)
    given: dict[str, Any] = {
        "data": data,
        "images": len(train),
        "device": options.device,
        "threads": options.threads,
        "inception_weights": _absolute(options.inception_weights),
        "studiogan": _studiogan(options),
        "seeds": options.seeds,
    }
    specs = runs_of(preset, **given, gans=options.gan, arms=options.arm)
    name = preset.name if options.engine == "builtin" else f"{preset.name}-studiogan"
    root = (options.runs or Path("runs") / name).resolve()  # the runs' processes start elsewhere
    save = options.save or root / "report"
    at_once = options.jobs or (1 if options.device != "cpu" else jobs_at_once(options.threads))
    if options.dry_run:
        threads = torch.get_num_threads()
        torch.set_num_threads(options.threads)  # as a run has them
        try:
            print(describe(preset, specs, train, test, at_once=at_once))
        finally:
            torch.set_num_threads(threads)
        return 0
    # a call that asks for less leaves the rest of the preset in the report
    asked = {spec.name for spec in specs}
    everything = [*specs, *(spec for spec in runs_of(preset, **given) if spec.name not in asked)]
    everything += [
        spec
        for spec in runs_of(preset, **given | {"seeds": None})
        if spec.name not in {s.name for s in everything} and (root / spec.name / RESULT).exists()
    ]

    def say(line: str) -> None:
        print(line, file=sys.stderr, flush=True)

    def after_each() -> None:
        write_report(preset, everything, root, save, command)
        say(table(specs, root))

    if not options.report:
        _prepare(preset, specs[0], train, test)
        run_all(specs, root, at_once=at_once, say=say, after_each=after_each)
    write_report(preset, everything, root, save, command)
    print(table(specs, root))
    print(f"report: {save / 'README.md'}")
    return 0


def _command(arguments: list[str]) -> str:
    """What was typed, for the report: of paths the file names, and no paths of results."""
    kept, skip = [], False
    for argument in (part for given in arguments for part in given.split("=", 1)):
        if skip or argument in ("--runs", "--save", "--report"):
            skip = not skip and argument != "--report"
            continue
        kept.append(Path(argument).name if "/" in argument else argument)
    return shlex.join(["python", "-m", "benchmarks.reproduce", *kept])


def _prepare(preset: Preset, spec: RunSpec, train: ImageSet, test: ImageSet) -> None:
    """Train the extractor, and fill its caches, once and not in every run."""
    weights = spec.inception_weights
    for reference in (train, test):
        Evaluator(
            reference,
            metrics=["fid"],
            extractor=preset.extractor,
            inception_weights=None if weights is None else Path(weights),
            device=torch.device(spec.device),
            seed=0,
            extractor_data=train,
        )


def _studiogan(options: argparse.Namespace) -> str | None:
    """The checkout that is to train.

    Raises:
        UserError: it is not given, no checkout, or it can't do what is asked for.
    """
    if options.engine == "builtin":
        return None
    if options.studiogan is None or options.data is None:
        raise UserError(
            "--engine studiogan needs --studiogan CHECKOUT (`topk-plugin studiogan clone` makes "
            "one) and --data FOLDER with the images as StudioGAN expects them"
        )
    if PRESETS[options.preset].precision != "fp32":
        raise UserError(
            f"preset {options.preset} trains in bf16 with settings of the built-in trainer; with "
            "--engine studiogan use --preset paper"
        )
    source_folder(Path(options.studiogan))
    return _absolute(options.studiogan)


def _absolute(path: str | None) -> str | None:
    return None if path is None else str(Path(path).expanduser().resolve())


if __name__ == "__main__":
    sys.exit(main())
