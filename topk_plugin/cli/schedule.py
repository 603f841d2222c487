"""`topk-plugin schedule`: what k does in a run, before there is one."""

import argparse
import math
from dataclasses import dataclass
from pathlib import Path

from topk_plugin.base.errors import UserError
from topk_plugin.cli.closing_table import aligned
from topk_plugin.cli.common import nonempty_path, positive, say
from topk_plugin.engine.keys.rules import Share
from topk_plugin.gate.schedule import KSchedule, gamma_to_reach, progress_at

HELP = "k over a run as a table and a picture, and the gamma that fits the run"

ROWS = 20
BAR = 32
# Below so many samples to choose from, the critic's ranking is mostly noise, and k is coarse.
FEW_SAMPLES = 8


@dataclass(frozen=True)
class Length:
    """How long a run is.

    Attributes:
        steps: training steps.
        batch: samples that k is taken of.
        steps_each: training steps of an epoch, or of a block of generator updates.
        unit: what the schedule counts.
    """

    steps: int
    batch: int
    steps_each: float
    unit: str

    @property
    def periods(self) -> float:
        """Epochs, or blocks, in the run."""
        return self.steps / self.steps_each

    def progress(self, step: int) -> int:
        """Whole epochs, or blocks, that are over at ``step``."""
        return math.floor(step / self.steps_each + 1e-9)

    def step(self, progress: float) -> int:
        """The step from which so many epochs, or blocks, are over."""
        return math.ceil(progress * self.steps_each - 1e-9)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    def number(text: str) -> float:
        try:
            return float(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"must be a number, not {text!r}") from None

    for name, about in (
        ("--images", "training images"),
        ("--batch", "samples in a batch, of which k are kept"),
        ("--steps", "training steps of the run"),
    ):
        parser.add_argument(name, type=positive, required=True, metavar="N", help=about)
    parser.add_argument(
        "--nu", type=number, default=0.75, help="floor of the kept fraction (default: 0.75)"
    )
    parser.add_argument(
        "--gamma",
        type=number,
        help="factor on k an epoch; default: the one that brings k to its floor at --floor_at",
    )
    parser.add_argument(
        "--floor_at",
        type=number,
        metavar="PERCENT",
        help="without --gamma: the share of the run after which k shall be at its floor (default: "
        "50, or half-way to the release)",
    )
    parser.add_argument(
        "--every",
        type=positive,
        metavar="N",
        help="gamma acts after every N generator updates; default: after every epoch",
    )
    parser.add_argument(
        "--release_from",
        metavar="POINT",
        help="where k begins to rise again: a share of the run (60%%) or a number of epochs",
    )
    parser.add_argument("--release_to", metavar="POINT", help="where k is the whole batch again")
    for name, about in (
        ("d_updates_per_step", "critic updates in a step"),
        ("g_updates_per_step", "generator updates in a step"),
        ("acml_steps", "batches accumulated for an update"),
    ):
        parser.add_argument(
            f"--{name}", type=positive, default=1, metavar="N", help=f"{about} (default: 1)"
        )
    parser.add_argument(
        "-save", "--save_file", type=nonempty_path, metavar="FILE.png", help="draw the curve of k"
    )


def run(options: argparse.Namespace) -> int:
    if options.save_file is not None and options.save_file.suffix != ".png":
        raise UserError(f"-save {options.save_file}: the picture is a .png file")
    length = _length(options)
    schedule = _schedule(options, length)
    epochs = options.steps / _steps_an_epoch(options)
    print(
        f"run: {options.steps:,} steps = {epochs:,.1f} epochs of {_steps_an_epoch(options):,.1f} "
        f"steps ({options.images:,} images, {_images_a_step(options):,} a step)"
    )
    print("\n".join(_describe(schedule, length)))
    print("\n".join(_table(schedule, length)))
    print(f"\nYAML:    LOSS: {{{_yaml(options, schedule)}}}")
    print(f"Python:  {_python(schedule)}")
    if options.save_file is not None:
        _draw(options.save_file, schedule, length)
        say(f"picture: {options.save_file}")
    return 0


def _images_a_step(options: argparse.Namespace) -> int:
    return int(options.batch * options.acml_steps * options.d_updates_per_step)


def _steps_an_epoch(options: argparse.Namespace) -> float:
    return float(options.images / _images_a_step(options))


def _length(options: argparse.Namespace) -> Length:
    an_epoch = _steps_an_epoch(options)
    if an_epoch < 1 and options.every is None:
        raise UserError(
            f"--images {options.images}: a step shows {_images_a_step(options)} images, more than "
            "there are, so an epoch is no unit here; give --every N generator updates"
        )
    if options.every is None:
        return Length(options.steps, options.batch, an_epoch, "epoch")
    steps_each = options.every / options.g_updates_per_step
    return Length(options.steps, options.batch, steps_each, f"{options.every} generator updates")


def _schedule(options: argparse.Namespace, length: Length) -> KSchedule:
    release_from = _point("--release_from", options.release_from, length)
    release_to = _point("--release_to", options.release_to, length)
    gamma = options.gamma
    if gamma is None:
        gamma = _fitting_gamma(options, length, release_from)
    elif options.floor_at is not None:
        raise UserError("--gamma and --floor_at both say when k is at its floor; give one of them")
    try:
        return KSchedule(gamma, options.nu, options.every or "epoch", release_from, release_to)
    except ValueError as error:
        raise UserError(f"--{error}") from error


def _point(name: str, given: str | None, length: Length) -> float | None:
    """A point of the run in epochs, or blocks: a share such as 60%, or the number itself."""
    if given is None:
        return None
    point = Share().read(name, given if given.strip().endswith("%") else _number(given))
    assert isinstance(point, float | str)
    return progress_at(point, length.periods)


def _number(text: str) -> float | str:
    try:
        return float(text)
    except ValueError:
        return text


def _fitting_gamma(
    options: argparse.Namespace, length: Length, release_from: float | None
) -> float:
    """The gamma that brings k to its floor at --floor_at."""
    if not 0 < options.nu <= 1:
        raise UserError(f"--nu must be a number above 0 and at most 1, not {options.nu:g}")
    if options.nu == 1:
        return 1.0
    if options.floor_at is not None:
        if not 0 < options.floor_at <= 100:
            raise UserError(f"--floor_at is {options.floor_at:g}; it is a percentage of the run")
        goal = options.floor_at / 100 * length.periods
    else:
        goal = (length.periods if release_from is None else release_from) / 2
    if goal < 1:
        updates = options.steps * options.g_updates_per_step
        raise UserError(
            f"the first {goal * length.steps_each:,.0f} steps, in which k is to fall, are less "
            f"than one {'epoch' if options.every is None else 'block'}; give --every "
            f"{max(1, updates // 100)}, or a --gamma of your own"
        )
    return gamma_to_reach(options.nu, math.floor(goal))


def _describe(schedule: KSchedule, length: Length) -> list[str]:
    """Where k goes, when, and what is to be said about it."""
    batch, lowest = length.batch, schedule.lowest_k(length.batch)
    if lowest == batch:
        return [
            f"note: k never drops under {batch} with gamma {schedule.gamma:g} and nu "
            f"{schedule.nu:g}: top-k does nothing here; lower --nu or --gamma, or enlarge the batch"
        ]
    lines = [
        f"k: from {batch} to {lowest} of {batch} (gamma {schedule.gamma:g} every {length.unit}, nu "
        f"{schedule.nu:g})"
    ]
    floor_at = length.step(schedule.progress_to_lowest_k(batch))
    if floor_at <= length.steps:
        lines.append(
            f"k: at its floor from step {floor_at:,}, {floor_at / length.steps:.0%} of the run"
        )
    else:
        end = schedule.k(length.progress(length.steps), batch)
        lines.append(
            f"note: k is {end} at the end and would reach its floor at step {floor_at:,} only; "
            "leave --gamma out for one that fits"
        )
    if schedule.release_from is not None and schedule.release_to is not None:
        # k moves when an epoch, or block, is over
        begin = length.step(math.ceil(schedule.release_from - 1e-9))
        end = length.step(math.ceil(schedule.release_to - 1e-9))
        lines.append(f"k: back to {batch} from step {begin:,} to {end:,}")
        if begin >= length.steps:
            lines.append("note: the release begins after the last step; lower --release_from")
    lines.append(f"kept over the whole run: {_mean_kept(schedule, length):.1%} of the samples")
    if lowest < FEW_SAMPLES:
        lines.append(
            f"note: k of {lowest} is coarse, and the critic's ranking of {batch} samples is "
            "noisy; a larger batch, or one selection over all processes, gives top-k more to "
            "choose from"
        )
    return lines


def _mean_kept(schedule: KSchedule, length: Length) -> float:
    """The share of the samples that the generator learns from, over the run."""
    kept = 0.0
    for period in range(math.ceil(length.periods)):
        share = min(1.0, length.periods - period)
        kept += share * schedule.k(period, length.batch) / length.batch
    return kept / length.periods


def _table(schedule: KSchedule, length: Length) -> list[str]:
    """Rows over the run; the bars are the picture."""
    period = "epoch" if length.unit == "epoch" else "block"
    rows = [("step", "run", period, "k", "kept", "")]
    for step in sorted({round(length.steps * i / ROWS) for i in range(ROWS + 1)}):
        progress = length.progress(step)
        k = schedule.k(progress, length.batch)
        filled = round(BAR * k / length.batch)
        bar = "█" * filled + "·" * (BAR - filled)
        share = f"{step / length.steps:.0%}"
        rows.append((f"{step:,}", share, f"{progress:,}", str(k), f"{k / length.batch:.1%}", bar))
    return ["", *aligned(rows)]


def _yaml(options: argparse.Namespace, schedule: KSchedule) -> str:
    given = {"apply_topk": "true", "topk_gamma": f"{schedule.gamma:g}"}
    given["topk_nu"] = f"{schedule.nu:g}"
    if schedule.every != "epoch":
        given["topk_every"] = str(schedule.every)
    for name in ("release_from", "release_to"):
        if getattr(options, name) is not None:
            given[f"topk_{name}"] = getattr(options, name)
    return ", ".join(f"{key}: {value}" for key, value in given.items())


def _python(schedule: KSchedule) -> str:
    arguments = [f"gamma={schedule.gamma:g}", f"nu={schedule.nu:g}"]
    if schedule.every != "epoch":
        arguments.append(f"every={schedule.every}")
    if schedule.release_from is not None and schedule.release_to is not None:
        arguments.append(f"release_from={schedule.release_from!r}")
        arguments.append(f"release_to={schedule.release_to!r}")
    return f"TopK(KSchedule({', '.join(arguments)}))"


def _draw(path: Path, schedule: KSchedule, length: Length) -> None:
    """k over the steps, as stairs."""
    from matplotlib.figure import Figure

    from topk_plugin.base.files import atomic_write

    ends = range(math.ceil(length.periods) + 1)
    ks = [schedule.k(period, length.batch) for period in ends]
    steps = [min(length.steps, length.step(period)) for period in ends]
    figure = Figure(figsize=(7, 3.2), layout="constrained")
    axes = figure.add_subplot()
    axes.step(steps, ks, where="post", color="#0072B2", linewidth=2)
    axes.fill_between(steps, ks, step="post", color="#0072B2", alpha=0.15, linewidth=0)
    axes.axhline(length.batch, color="#4d4d4d", linewidth=1, linestyle=":")
    axes.set(xlabel="training step", ylabel=f"k of {length.batch}", xlim=(0, length.steps))
    axes.set_ylim(0, length.batch * 1.08)
    axes.set_title(_python(schedule).removeprefix("TopK(").removesuffix(")"), fontsize=10)
    axes.spines[["top", "right"]].set_visible(False)
    with atomic_write(path) as temporary:
        figure.savefig(temporary, format="png", dpi=110)
