"""Paired runs of GANs with and without top-k, from seconds to the paper's claim in full.

    python -m benchmarks.reproduce --preset smoke                     # does everything run?
    python -m benchmarks.reproduce --preset cpu                       # hours on 2 CPU cores
    python -m benchmarks.reproduce --preset paper --dry-run           # the plan of the full run

A preset (benchmarks/paper/presets.py) is a study with a name: what ``topk-plugin study`` does for
any config, this does for those. Runs of one GAN and seed have the same initial weights, data order,
latents and augmentation in every arm. Stopped (Ctrl-C, a kill), the same command goes on from the
last checkpoints. The report is written anew after every run, from all runs that are finished. See
docs/reproduction.md.
"""

import argparse
import shlex
import sys
from pathlib import Path

import torch

from benchmarks.paper.gans import ARMS
from benchmarks.paper.presets import PRESETS
from topk_plugin.base.errors import UserError
from topk_plugin.cli.common import positive, say
from topk_plugin.studiogan.checkout import source_folder
from topk_plugin.study.conduct import Request, conduct
from topk_plugin.study.report import write_report
from topk_plugin.study.restoring import restore
from topk_plugin.study.results import Results
from topk_plugin.study.scheduler import Stopped
from topk_plugin.study.spec import Data, RunSpec
from topk_plugin.study.study import AUTO, Study, most_seeds, runs_of

_SWITCHES = ("--report", "--again", "--restore")
"""Options without a value that say nothing about what was trained."""


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
    parser.add_argument("--seeds", type=positive, help="how many, in place of the preset's")
    parser.add_argument("--data", metavar="PATH", help="training images; default: torchvision's")
    parser.add_argument("--test_data", metavar="PATH", help="test images, where --data has none")
    parser.add_argument("--runs", type=Path, help="folder of the runs; default runs/PRESET")
    parser.add_argument("--save", type=Path, help="the report's folder; default report/ in --runs")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--inception_weights", metavar="FILE")
    parser.add_argument("--engine", choices=("builtin", "studiogan"), default="builtin")
    parser.add_argument("--studiogan", metavar="CHECKOUT", help="for --engine studiogan")
    parser.add_argument("--threads", type=positive, default=1, help="CPU threads of a run")
    parser.add_argument(
        "--jobs", type=positive, help="runs at once; default: as cores and memory allow"
    )
    parser.add_argument("--dry-run", action="store_true", help="print the plan, timed, and stop")
    parser.add_argument("--report", action="store_true", help="only write the report")
    parser.add_argument(
        "--again",
        action="store_true",
        help="with --report: from the runs' files that --save holds already",
    )
    parser.add_argument(
        "--restore",
        action="store_true",
        help="count finished runs that --save keeps as done, where their folders were lost",
    )
    return parser


def _run(options: argparse.Namespace, command: str) -> int:
    study = PRESETS[options.preset]
    config = study.gans[0].config_of(study.gans[0].arms[0])
    data = Data(config.DATA.name, _absolute(options.data), _absolute(options.test_data))
    name = study.name if options.engine == "builtin" else f"{study.name}-studiogan"
    root = (options.runs or Path("runs") / name).resolve()  # the runs' processes start elsewhere
    save = options.save or root / "report"
    if options.again:
        _report_again(study, data, save, command)
        return 0
    if options.restore:
        restore(_every_run(study, data, options.device), save, root, say)
    request = Request(
        data=data,
        root=root,
        save=save,
        command=command,
        device=options.device,
        threads=options.threads,
        jobs=options.jobs,
        inception_weights=_absolute(options.inception_weights),
        studiogan=_studiogan(options),
        gans=None if options.gan is None else tuple(options.gan),
        arms=None if options.arm is None else tuple(ARMS[name] for name in options.arm),
        seeds=options.seeds,
        dry_run=options.dry_run,
        report=options.report,
    )
    conduct(study, request, say)
    return 0


def _report_again(study: Study, data: Data, save: Path, command: str) -> None:
    """Write a report anew from its own files, with the rules of today."""
    specs = _every_run(study, data, "cpu")
    write_report(Results.of_report(study, specs, save), save, command)
    print(f"report: {save / 'README.md'}")


def _every_run(study: Study, data: Data, device: str) -> list[RunSpec]:
    """All runs that a report of the study can hold; their precision is in their results."""
    return runs_of(
        study,
        data=data,
        images=None,
        device=device,
        threads=1,
        inception_weights=None,
        precision="fp32" if study.precision == AUTO else study.precision,
        seeds=most_seeds(study),
    )


def _command(arguments: list[str]) -> str:
    """What was typed, for the report: of paths the file names, and no paths of results."""
    kept, skip = [], False
    for argument in (part for given in arguments for part in given.split("=", 1)):
        if skip or argument in ("--runs", "--save", *_SWITCHES):
            skip = not skip and argument not in _SWITCHES
            continue
        kept.append(Path(argument).name if "/" in argument else argument)
    return shlex.join(["python", "-m", "benchmarks.reproduce", *kept])


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
            f"preset {options.preset} trains with settings of the built-in trainer; with "
            "--engine studiogan use --preset paper"
        )
    source_folder(Path(options.studiogan))
    return _absolute(options.studiogan)


def _absolute(path: str | None) -> str | None:
    return None if path is None else str(Path(path).expanduser().resolve())


if __name__ == "__main__":
    sys.exit(main())
