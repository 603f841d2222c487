"""`topk-plugin study`."""

import argparse
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from topk_plugin.base.errors import UserError
from topk_plugin.cli.common import (
    add_data_argument,
    add_device_argument,
    chosen_device,
    nonempty_path,
    positive,
    say,
)
from topk_plugin.evaluation.extractor_names import CHOICES

if TYPE_CHECKING:
    from topk_plugin.study.store import Kept

HELP = "compare settings of a GAN over paired seeds, with intervals and tests"
SEEDS = 5
LOOKS = 4
LATE_LOOKS = 4
MOST_SAMPLES = 10_000
# Options that say where, not what: left out of the command in the report.
_PLACES = ("-save", "--save_dir")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "-cfg",
        "--cfg_file",
        type=nonempty_path,
        metavar="FILE",
        help="StudioGAN YAML file or the name of a shipped config, the same for all arms; not "
        "needed where -save holds the study",
    )
    parser.add_argument(
        "-save",
        "--save_dir",
        type=nonempty_path,
        required=True,
        metavar="DIR",
        help="the study's folder: runs/, report/; the same command goes on with what is in it",
    )
    parser.add_argument(
        "--arm",
        nargs="+",
        action="append",
        default=[],
        metavar=("NAME", "SECTION.key=value"),
        help="an arm: a name, and what it overrides in the config (nothing: the config as it is); "
        "once for every arm",
    )
    parser.add_argument("--baseline", metavar="NAME", help="default: the first --arm")
    parser.add_argument(
        "--seeds",
        type=positive,
        metavar="N",
        help=f"pairs (seeds 0 to N - 1; default {SEEDS}); a larger N later adds runs",
    )
    parser.add_argument(
        "--sequential",
        action="store_true",
        help="verdicts after 8, 12, 16 and 20 pairs; stops where every arm is decided",
    )
    parser.add_argument(
        "--set",
        nargs="+",
        action="extend",
        default=[],
        metavar="SECTION.key=value",
        help="override values of the config in every arm",
    )
    add_data_argument(parser)
    parser.add_argument(
        "--test_data", type=nonempty_path, metavar="PATH", help="test images, where -data has none"
    )
    add_device_argument(parser)
    parser.add_argument(
        "--precision",
        choices=("fp32", "bf16", "auto"),
        help="default fp32; auto: the faster one of both here, timed, for all runs of the study",
    )
    parser.add_argument("--threads", type=positive, default=1, help="CPU threads of a run")
    parser.add_argument(
        "--jobs", type=positive, help="runs at once; default: as cores and memory allow"
    )
    parser.add_argument(
        "--extractor",
        choices=CHOICES,
        default="auto",
        help="whose features measure; auto: as `topk-plugin train` chooses",
    )
    parser.add_argument("--inception_weights", type=nonempty_path, metavar="FILE")
    parser.add_argument(
        "--num_samples",
        type=positive,
        metavar="N",
        help=f"generated images of a measurement; default: as many as are trained on, at most "
        f"{MOST_SAMPLES:,}",
    )
    parser.add_argument("--dry-run", action="store_true", help="print the plan, timed, and stop")
    parser.add_argument("--report", action="store_true", help="only write the report")


def run(options: argparse.Namespace) -> int:
    from tempfile import TemporaryDirectory

    from topk_plugin.engine.shipped_configs import config_file
    from topk_plugin.study.conduct import Request, conduct
    from topk_plugin.study.scheduler import Stopped
    from topk_plugin.study.store import Kept, keep_config

    folder: Path = options.save_dir.resolve()  # the runs' processes start elsewhere
    arms = _arms(options.arm)
    before = Kept.read(folder)
    if options.cfg_file is not None:
        options.cfg_file = config_file(options.cfg_file)
    if before is None and (options.cfg_file is None or len(arms) < 2):
        raise UserError(
            f"{options.save_dir} holds no study yet: give -cfg FILE and two or more arms, e.g. "
            "--arm baseline LOSS.apply_topk=false --arm topk"
        )
    with TemporaryDirectory() as scratch:
        # a plan alone leaves nothing behind
        home = Path(scratch) if options.dry_run and before is None else folder
        if options.cfg_file is not None:
            keep_config(options.cfg_file, options.set, home)
        elif options.set:
            raise UserError("--set changes the config of -cfg FILE; give both, or none")
        kept = _begin(options, arms) if before is None else _go_on(options, before, arms)
        if not options.dry_run:
            kept.write(folder)
        weights = options.inception_weights
        request = Request(
            data=kept.data,
            root=folder / "runs",
            save=folder / "report",
            command=_command(sys.argv[1:]),
            device=chosen_device(options.device).type,
            threads=options.threads,
            jobs=options.jobs,
            inception_weights=None if weights is None else str(weights.resolve()),
            dry_run=options.dry_run,
            report=options.report,
        )
        try:
            conduct(kept.study(home), request, say)
        except Stopped:
            say("stopped; the same command goes on")
            return 130
    return 0


def _arms(given: list[list[str]]) -> dict[str, tuple[str, ...]]:
    """Name -> overrides.

    Raises:
        UserError: a name twice, a name that is an override, or one that can't be a folder.
    """
    from topk_plugin.study.study import Arm

    found: dict[str, tuple[str, ...]] = {}
    for name, *overrides in given:
        if "=" in name and "." in name.partition("=")[0]:
            raise UserError(f"--arm {name} has no name; write --arm NAME {name}")
        if name in found:
            raise UserError(f"--arm {name} is given twice; name arms differently")
        found[name] = Arm(name, tuple(overrides)).overrides
    return found


def _begin(options: argparse.Namespace, arms: dict[str, tuple[str, ...]]) -> "Kept":
    """A new study."""
    from topk_plugin.engine.config.config import load_config
    from topk_plugin.engine.methods.registry import unfit_extractors
    from topk_plugin.evaluation.extractors import choose_extractor
    from topk_plugin.study.spec import Data
    from topk_plugin.study.store import Kept, gan_name
    from topk_plugin.study.worker import open_both

    baseline = options.baseline or next(iter(arms))
    if baseline not in arms:
        raise UserError(f"--baseline {baseline} is no --arm; there are {', '.join(arms)}")
    arms = {baseline: arms[baseline]} | arms
    config = load_config(options.cfg_file, options.set)
    # a wrong override is said before anything is opened
    configs = [load_config(options.cfg_file, [*options.set, *new]) for new in arms.values()]
    unfit = {name: by for arm in configs for name, by in unfit_extractors(arm).items()}
    data = Data(config.DATA.name, _absolute(options.data_dir), _absolute(options.test_data))
    samples = options.num_samples or min(MOST_SAMPLES, len(open_both(data, config)[0]))
    extractor = choose_extractor(
        options.extractor,
        data_name=config.DATA.name,
        inception_weights=options.inception_weights,
        unfit=unfit,
    ).name
    return Kept(
        gan=gan_name(options.cfg_file),
        arms=arms,
        seeds=options.seeds or SEEDS,
        data=data,
        precision=options.precision or "fp32",
        extractor=extractor,
        samples=samples,
        looks=LOOKS,
        late_looks=LATE_LOOKS,
        sequential=options.sequential,
    )


def _go_on(options: argparse.Namespace, before: "Kept", arms: dict[str, tuple[str, ...]]) -> "Kept":
    """The study in the folder, with what is new.

    Raises:
        UserError: an option that would change what the finished runs are.
    """
    from dataclasses import replace

    fixed = {
        "--precision": (options.precision, before.precision),
        "--num_samples": (options.num_samples, before.samples),
        "--sequential": (options.sequential or None, before.sequential),
        "--extractor": (
            None if options.extractor == "auto" else options.extractor,
            before.extractor,
        ),
    }
    for name, (given, kept) in fixed.items():
        if given is not None and given != kept:
            raise UserError(
                f"{name} {given}, but this study was begun with {kept}; leave it out, or give "
                "another folder to -save"
            )
    data = before.data  # files may have moved
    if options.data_dir is not None:
        data = replace(data, train=_absolute(options.data_dir))
    if options.test_data is not None:
        data = replace(data, test=_absolute(options.test_data))
    return replace(before.grown(arms, options.seeds, options.baseline), data=data)


def _command(arguments: list[str]) -> str:
    """What was typed, for the report: of paths the file names, and not where results are."""
    kept, skip = [], False
    for argument in arguments:
        if skip or argument in _PLACES:
            skip = not skip
        elif argument != "--report":
            kept.append(Path(argument).name if "/" in argument else argument)
    return shlex.join(["topk-plugin", *kept])


def _absolute(path: Path | None) -> str | None:
    return None if path is None else str(path.expanduser().resolve())
