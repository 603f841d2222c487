"""Paired runs of GANs with and without top-k, from seconds to the paper's claim in full.

    python -m benchmarks.reproduce --preset smoke                     # does everything run?
    python -m benchmarks.reproduce --preset cpu                       # hours on 2 CPU cores
    python -m benchmarks.reproduce --preset paper --dry-run           # the plan of the full run

Runs of one GAN and seed have the same initial weights, data order, latents and augmentation in
every arm. Stopped (Ctrl-C, a kill), the same command goes on where it was. The report is written
anew after every run. See docs/reproduction.md.
"""

import argparse
import sys
from pathlib import Path

import torch

from benchmarks.reproduction.plan import describe
from benchmarks.reproduction.presets import ARMS, PRESETS, Preset, config_of, runs_of
from benchmarks.reproduction.report import write_report
from benchmarks.reproduction.scheduler import Stopped, jobs_at_once, run_all, table
from benchmarks.reproduction.spec import Data, RunSpec
from benchmarks.reproduction.worker import open_both
from topk_plugin.engine.data.images import ImageSet
from topk_plugin.errors import UserError
from topk_plugin.evaluation.metrics import Evaluator
from topk_plugin.studiogan.checkout import source_folder

RESULTS = Path("benchmarks/results")


def main(arguments: list[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    try:
        return _run(options)
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
    parser.add_argument("--seeds", type=int, help="how many, in place of the preset's")
    parser.add_argument("--data", metavar="PATH", help="training images; default: torchvision's")
    parser.add_argument("--test_data", metavar="PATH", help="test images, where --data has none")
    parser.add_argument("--runs", type=Path, help="folder of the runs; default runs/PRESET")
    parser.add_argument("--save", type=Path, help=f"the report's folder; default {RESULTS}/...")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--inception_weights", metavar="FILE")
    parser.add_argument("--engine", choices=("builtin", "studiogan"), default="builtin")
    parser.add_argument("--studiogan", metavar="CHECKOUT", help="for --engine studiogan")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads of a run")
    parser.add_argument("--jobs", type=int, help="runs at once; default: as cores and memory allow")
    parser.add_argument("--dry-run", action="store_true", help="print the plan, timed, and stop")
    parser.add_argument("--report", action="store_true", help="only write the report")
    return parser


def _run(options: argparse.Namespace) -> int:
    preset = PRESETS[options.preset]
    config = config_of(preset.gans[0], "topk")
    data = Data(config.DATA.name, _absolute(options.data), _absolute(options.test_data))
    train, test = open_both(data, config)
    specs = runs_of(
        preset,
        data=data,
        images=len(train),
        device=options.device,
        threads=options.threads,
        inception_weights=_absolute(options.inception_weights),
        studiogan=_studiogan(options),
        gans=options.gan,
        arms=options.arm,
        seeds=options.seeds,
    )
    name = preset.name if options.engine == "builtin" else f"{preset.name}-studiogan"
    root = options.runs or Path("runs") / name
    save = options.save or RESULTS / f"reproduce-{name}"
    at_once = options.jobs or (1 if options.device != "cpu" else jobs_at_once(options.threads))
    if options.dry_run:
        print(describe(preset, specs, train, test, at_once=at_once))
        return 0

    def say(line: str) -> None:
        print(line, file=sys.stderr, flush=True)

    def after_each() -> None:
        write_report(preset, specs, root, save)
        say(table(specs, root))

    if not options.report:
        _prepare(preset, specs[0], train, test)
        run_all(specs, root, at_once=at_once, say=say, after_each=after_each)
    write_report(preset, specs, root, save)
    print(table(specs, root))
    print(f"report: {save / 'README.md'}")
    return 0


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
