"""What a study compares and how: GANs, arms, seeds, measurements, as plain data."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from topk_plugin.base.errors import UserError
from topk_plugin.engine.config.config import Config, load_config
from topk_plugin.engine.methods.registry import unfit_extractors
from topk_plugin.engine.plan import describe_top_k, steps_to_floor
from topk_plugin.engine.trainer import steps_per_epoch
from topk_plugin.evaluation.extractors import refuse_unfit
from topk_plugin.study.looks import looks_along
from topk_plugin.study.sequential import PAIRS
from topk_plugin.study.spec import Data, RunSpec

# Arms are folders and labels.
_ARM = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+=-]{0,59}")
AUTO = "auto"


@dataclass(frozen=True)
class Arm:
    """One side of a comparison.

    Attributes:
        name: in folders, tables and figures: letters, digits and ``. _ + = -``.
        overrides: "SECTION.key=value", as ``--set`` takes them.

    Raises:
        UserError: the name can't be a folder.
    """

    name: str
    overrides: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not _ARM.fullmatch(self.name):
            raise UserError(
                f"{self.name!r} can't name an arm; take up to 60 letters, digits and . _ + = -, a "
                "letter or digit first"
            )


@dataclass(frozen=True)
class Gan:
    """Arms that are compared with one baseline.

    Attributes:
        name: in folders and tables.
        config: a YAML file.
        overrides: of every arm, before the arm's own.
        arms: the baseline among them, unless ``compared_with`` has it.
        seeds: how many.
        first_seed: the lowest.
        compared_with: the GAN whose baseline the arms are compared with, where it is not its own.
        hold_out: a class that the training never sees.
        about: one line for the report.
    """

    name: str
    config: Path
    overrides: tuple[str, ...]
    arms: tuple[Arm, ...]
    seeds: int = 5
    first_seed: int = 0
    compared_with: str | None = None
    hold_out: str | None = None
    about: str = ""

    def config_of(self, arm: Arm) -> Config:
        """The config of one arm.

        Raises:
            UserError: the file or an override is wrong.
        """
        return load_config(self.config, [*self.overrides, *arm.overrides])


@dataclass(frozen=True)
class Study:
    """Everything that is decided before the first run.

    Attributes:
        name: of the study.
        title: of the report.
        gans: compared one by one.
        baseline: the name of the arm that all others are compared with.
        precision: "fp32", "bf16" or ``AUTO``, the faster one here.
        extractor: "builtin", "imagenet" or "inception", for the measurements along a run.
        samples: generated images of a measurement.
        looks: measurements along a run, evenly.
        late_looks: in place of those in its last quarter so many, whose mean is the run's value.
        final_extractor: another extractor, for one measurement at the end; None: none.
        co_primary: measures that get verdicts beside the distance.
        sequential: verdicts at the looks of :mod:`topk_plugin.study.sequential`, and no further
            seeds where all are decided; else one verdict, when all planned runs are finished.
        fewest: pairs that a sequential study has in any case.
        floor_by: the share of a run by which k must be at its floor; None: whenever.
    """

    name: str
    title: str
    gans: tuple[Gan, ...]
    baseline: str
    precision: str
    extractor: str
    samples: int
    looks: int
    late_looks: int = 0
    final_extractor: str | None = None
    co_primary: tuple[str, ...] = ()
    sequential: bool = False
    fewest: int = PAIRS[0]
    floor_by: float | None = None

    def gan(self, name: str) -> Gan:
        """The GAN of this name."""
        return next(gan for gan in self.gans if gan.name == name)

    def baseline_of(self, gan: Gan) -> str:
        """The GAN whose baseline the arms of ``gan`` are compared with."""
        return gan.compared_with or gan.name


def runs_of(
    study: Study,
    *,
    data: Data,
    images: int | None,
    device: str,
    threads: int,
    inception_weights: str | None,
    precision: str,
    studiogan: str | None = None,
    gans: Sequence[str] | None = None,
    arms: Sequence[Arm] | None = None,
    seeds: int | None = None,
) -> list[RunSpec]:
    """The runs of a study, in the order in which pairs are complete earliest.

    Args:
        study: see there.
        data: the images.
        images: size of the training split; None where nothing is trained.
        device: "cpu" or "cuda".
        threads: CPU threads of a run.
        inception_weights: their file, or None.
        precision: "fp32" or "bf16".
        studiogan: a checkout whose trainer is used, or None.
        gans: only these, and the baselines that they are compared with.
        arms: these and the baseline in place of the study's.
        seeds: so many in place of the study's.

    Raises:
        UserError: an unknown name, another data set, an extractor that an arm trains with, or k
            does not reach its floor in time.
    """
    asked = [gan for gan in study.gans if gans is None or gan.name in gans]
    needed = {gan.compared_with for gan in asked} - {gan.name for gan in asked}
    unknown = sorted(set(gans or ()) - {gan.name for gan in study.gans})
    if unknown:
        known = ", ".join(repr(gan.name) for gan in study.gans)
        raise UserError(f"--gan {unknown[0]!r} is not in {study.name}; it has {known}")
    keyed = []
    for position, gan in enumerate(study.gans):
        for arm in _arms_of(study, gan, arms, asked=gan in asked, needed=gan.name in needed):
            config = gan.config_of(arm)
            if config.DATA.name != data.name:
                raise UserError(f"{study.name} trains on {config.DATA.name}, not on {data.name}")
            if images is not None and study.floor_by is not None:
                check_floor(config, images, study.floor_by)
            for extractor in (study.extractor, study.final_extractor):
                if extractor is not None:
                    refuse_unfit(extractor, unfit_extractors(config))
            tree = config.to_dict()
            for seed in range(seeds or gan.seeds):
                spec = RunSpec(
                    gan=gan.name,
                    arm=arm.name,
                    seed=gan.first_seed + seed,
                    config=tree,
                    data=data,
                    hold_out=gan.hold_out,
                    precision=precision,
                    threads=threads,
                    device=device,
                    extractor=study.extractor,
                    inception_weights=inception_weights,
                    samples=study.samples,
                    measured_at=looks_along(
                        config.OPTIMIZATION.total_steps, study.looks, study.late_looks
                    ),
                    final_extractor=study.final_extractor,
                    studiogan=studiogan,
                )
                keyed.append(((seed, position), spec))
    return [spec for _, spec in sorted(keyed, key=lambda item: item[0])]


def _arms_of(
    study: Study, gan: Gan, arms: Sequence[Arm] | None, *, asked: bool, needed: bool
) -> list[Arm]:
    """The arms to run: comparisons come with a baseline, of their own or another GAN's."""
    baseline = [arm for arm in gan.arms if arm.name == study.baseline]
    if not asked:
        return baseline if needed else []
    if arms is None:
        return list(gan.arms)
    return baseline + [arm for arm in arms if arm.name != study.baseline]


def most_seeds(study: Study) -> int | None:
    """How many seeds a sequential study may take; None where the number is fixed."""
    return PAIRS[-1] if study.sequential else None


def check_floor(config: Config, images: int, floor_by: float) -> None:
    """Refuse a schedule whose floor comes too late to be compared.

    Raises:
        UserError: with a gamma that would do.
    """
    epoch = steps_per_epoch(config, images)
    floor_at = steps_to_floor(config, epoch)
    total = config.OPTIMIZATION.total_steps
    if floor_at is None or floor_at <= floor_by * total:
        return
    settings = describe_top_k(config, epoch)
    raise UserError(
        f"k reaches its floor at step {floor_at:,.0f} of {total:,}, and this comparison needs it "
        f"by {floor_by:.0%} of the run; {settings[-1].removeprefix('note: ')}"
    )


def what_pairs_do_not_share(config: dict[str, Any], baseline: dict[str, Any]) -> list[str]:
    """What differs between the runs of a pair beside what is trained on purpose.

    Runs of a seed share initial weights, data order and latents as long as the networks, the
    images, and the number of images in a step are the same.

    Args:
        config: the sections of one arm.
        baseline: those of the baseline.

    Returns:
        Words for what is not shared; empty where all is.
    """
    counts = ("batch_size", "acml_steps", "d_updates_per_step", "g_updates_per_step")
    apart = []
    if any(config["MODEL"].get(k) != v for k, v in baseline["MODEL"].items() if _builds(k)):
        apart.append("initial weights and latents")
    mine, theirs = config["OPTIMIZATION"], baseline["OPTIMIZATION"]
    if any(mine[key] != theirs[key] for key in counts) or config["DATA"] != baseline["DATA"]:
        apart.append("the images and latents of a step")
    if mine["total_steps"] != theirs["total_steps"]:
        apart.append("the length of the run")
    return apart


def _builds(key: str) -> bool:
    """Whether a key of MODEL decides what networks are built; the moving average's don't."""
    return "ema" not in key
