"""Which GANs, arms, seeds and sizes a preset compares."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from topk_plugin.base.errors import UserError
from topk_plugin.engine.config.config import Config, load_config
from topk_plugin.engine.plan import describe_top_k, steps_to_floor
from topk_plugin.engine.trainer import images_per_step
from topk_plugin.study.spec import Data, RunSpec

CONFIGS: Final = Path(__file__).resolve().parents[2] / "configs"
BASELINE: Final = "baseline"
ARMS: Final[dict[str, tuple[str, ...]]] = {
    BASELINE: ("LOSS.apply_topk=false",),
    "topk": ("LOSS.topk_policy=top",),
    "bottomk": ("LOSS.topk_policy=bottom",),
    "randomk": ("LOSS.topk_policy=random",),
    "balancedk": ("LOSS.topk_policy=balanced",),
}


@dataclass(frozen=True)
class Gan:
    """One row of a comparison.

    Attributes:
        name: in folders and tables.
        config: a file below configs/, with top-k.
        overrides: "SECTION.key=value", as ``--set`` takes them.
        arms: the default ones.
        compared_with: the GAN whose baseline the arms are compared with, where it is not its own.
        seeds: how many.
        hold_out: a class that the training never sees.
        about: one line for the report.
    """

    name: str
    config: str
    overrides: tuple[str, ...]
    arms: tuple[str, ...] = (BASELINE, "topk")
    compared_with: str | None = None
    seeds: int = 5
    hold_out: str | None = None
    about: str = ""


@dataclass(frozen=True)
class Preset:
    """What ``--preset`` chooses.

    Attributes:
        name: of the preset.
        gans: compared one by one.
        precision: "fp32" or "bf16".
        extractor: "builtin" or "inception".
        samples: generated images of a measurement.
        looks: measurements along a run.
        floor_by: the share of the run by which k must be at its floor.
        title: of the report.
    """

    name: str
    gans: tuple[Gan, ...]
    precision: str
    extractor: str
    samples: int
    looks: int
    floor_by: float
    title: str


# k falls by the paper's gamma, 0.99, so often that it is at its floor in the middle of a run.
def _schedule(steps: int, nu: float = 0.75, gamma: float = 0.99) -> tuple[str, ...]:
    updates, fraction = 0, 1.0
    while fraction > nu:
        updates, fraction = updates + 1, fraction * gamma
    every = max(1, steps // 2 // updates)
    return (
        f"OPTIMIZATION.total_steps={steps}",
        f"LOSS.topk_gamma={gamma}",
        f"LOSS.topk_nu={nu}",
        f"LOSS.topk_every={every}",
    )


def _average(steps: int) -> tuple[str, ...]:
    """A moving average of about a twentieth of the run."""
    decay = round(1 - 20 / steps, 4)
    start = steps // 10
    return (
        "MODEL.apply_g_ema=true",
        f"MODEL.g_ema_decay={decay}",
        f"MODEL.g_ema_start={start}",
    )


_NARROW: Final = ("MODEL.g_conv_dim=16", "MODEL.d_conv_dim=24")
_DCGAN_STEPS, _STEPS, _SHORT_STEPS = 1500, 2000, 1500
# With batch normalisation its critic tells real from fake without a mistake after 300 steps of this
# batch size, and the images stay noise; with spectral normalisation it learns.
_DCGAN: Final = (
    *("OPTIMIZATION.d_updates_per_step=1", "MODEL.apply_d_sn=true"),
    *_average(_DCGAN_STEPS),
)
_TWO_UPDATES: Final = ("OPTIMIZATION.d_updates_per_step=2", *_average(_STEPS))
_SMALL_SNGAN: Final = (
    *("MODEL.g_conv_dim=12", "MODEL.d_conv_dim=16", "OPTIMIZATION.d_updates_per_step=1"),
    *_average(_SHORT_STEPS),
)

CPU: Final = (
    Gan(
        "DCGAN",
        "CIFAR10/DCGAN-TopK.yaml",
        (*_DCGAN, *_schedule(_DCGAN_STEPS)),
        about="unconditional, StudioGAN's widths, spectral normalisation in the critic, "
        f"{_DCGAN_STEPS:,} steps of one update each",
    ),
    Gan(
        "SNGAN",
        "CIFAR10/SNGAN-TopK.yaml",
        (*_NARROW, *_TWO_UPDATES, *_schedule(_STEPS)),
        arms=(BASELINE, "topk", "bottomk", "randomk"),
        about=f"cBN and PD, widths 16 and 24, {_STEPS:,} steps with 2 critic updates",
    ),
    Gan(
        "BigGAN",
        "CIFAR10/BigGAN-TopK.yaml",
        (*_NARROW, "MODEL.g_shared_dim=32", *_TWO_UPDATES, *_schedule(_STEPS)),
        seeds=3,
        about=f"cBN and PD, widths 16 and 24, {_STEPS:,} steps with 2 critic updates",
    ),
    Gan(
        "ContraGAN",
        "CIFAR10/ContraGAN-TopK.yaml",
        (
            *(*_NARROW, "MODEL.g_shared_dim=32", "MODEL.d_embed_dim=128"),
            *(*_TWO_UPDATES, *_schedule(_STEPS)),
        ),
        seeds=3,
        about=f"cBN and 2C, widths 16 and 24, {_STEPS:,} steps with 2 critic updates",
    ),
)


def _ablation(
    name: str, *overrides: str, about: str, nu: float = 0.75, own_baseline: bool = False
) -> Gan:
    return Gan(
        f"SNGAN-small {name}",
        "CIFAR10/SNGAN-TopK.yaml",
        (*_SMALL_SNGAN, *_schedule(_SHORT_STEPS, nu), *overrides),
        arms=(BASELINE, "topk") if own_baseline else ("topk",),
        compared_with=None if own_baseline else "SNGAN-small",
        seeds=3,
        about=about,
    )


ABLATIONS: Final = (
    Gan(
        "SNGAN-small",
        "CIFAR10/SNGAN-TopK.yaml",
        (*_SMALL_SNGAN, *_schedule(_SHORT_STEPS)),
        arms=tuple(ARMS),
        seeds=3,
        about="nu 0.75, k at its floor in the middle of the run",
    ),
    _ablation("nu 0.9", nu=0.9, about="a higher floor"),
    _ablation("nu 0.5", nu=0.5, about="the paper's lowest floor"),
    _ablation("nu 0.25", nu=0.25, about="a floor below the paper's range"),
    _ablation("early", "LOSS.topk_gamma=0.75", "LOSS.topk_every=75", about="floor after 5 %"),
    _ablation("late", "LOSS.topk_every=45", about="floor after 87 %"),
    _ablation("weights 1", "LOSS.topk_normalize=batch", about="kept samples weigh 1, not B / k"),
    _ablation(
        "batch 32", "OPTIMIZATION.batch_size=32", about="half of the batch", own_baseline=True
    ),
    _ablation(
        "batch 128", "OPTIMIZATION.batch_size=128", about="twice the batch", own_baseline=True
    ),
)

ANOMALY: Final = tuple(
    Gan(
        f"SNGAN-small without {name}",
        "CIFAR10/SNGAN-TopK.yaml",
        (
            *_SMALL_SNGAN,
            *_schedule(_SHORT_STEPS),
            *("MODEL.g_cond_mtd=W/O", "MODEL.d_cond_mtd=W/O"),
        ),
        seeds=3,
        hold_out=name,
        about=f"unconditional, trained without {name}",
    )
    for name in ("airplane", "automobile", "horse")
)

_TINY: Final = (
    *("MODEL.g_conv_dim=8", "MODEL.d_conv_dim=8", "MODEL.g_ema_start=2"),
    *("OPTIMIZATION.batch_size=16", "MODEL.g_ema_decay=0.5"),
)

PRESETS: Final[dict[str, Preset]] = {
    preset.name: preset
    for preset in (
        Preset(
            "smoke",
            (
                Gan(
                    "BigGAN",
                    "Digits/BigGAN-TopK.yaml",
                    (*_TINY, *_schedule(12, nu=0.5, gamma=0.7)),
                    arms=(BASELINE, "topk"),
                    seeds=2,
                    about="12 steps on the bundled digits",
                ),
            ),
            precision="fp32",
            extractor="builtin",
            samples=200,
            looks=2,
            floor_by=1.0,
            title="Does the harness run?",
        ),
        Preset(
            "cpu",
            CPU,
            precision="bf16",
            extractor="builtin",
            samples=5000,
            looks=5,
            floor_by=0.5,
            title="Top-k training of narrow GANs on CIFAR-10",
        ),
        Preset(
            "ablations",
            ABLATIONS,
            precision="bf16",
            extractor="builtin",
            samples=5000,
            looks=3,
            floor_by=1.0,
            title="What changes when one setting of top-k training does",
        ),
        Preset(
            "anomaly",
            ANOMALY,
            precision="bf16",
            extractor="builtin",
            samples=5000,
            looks=1,
            floor_by=0.5,
            title="Finding a class that the training never saw",
        ),
        Preset(
            "paper",
            (
                Gan(
                    "BigGAN-ICR",
                    "CIFAR10/BigGAN-ICR-TopK.yaml",
                    (),
                    about="StudioGAN's full hyper-parameters, 100,000 steps",
                ),
            ),
            precision="fp32",
            extractor="inception",
            samples=50_000,
            looks=20,
            floor_by=1.0,
            title="CIFAR-10, class-conditional: BigGAN-ICR with and without top-k",
        ),
    )
}


def config_of(gan: Gan, arm: str) -> Config:
    """The config of one arm.

    Raises:
        UserError: the overrides are wrong.
    """
    return load_config(CONFIGS / gan.config, [*gan.overrides, *ARMS[arm]])


def runs_of(
    preset: Preset,
    *,
    data: Data,
    images: int,
    device: str,
    threads: int,
    inception_weights: str | None,
    studiogan: str | None = None,
    gans: Sequence[str] | None = None,
    arms: Sequence[str] | None = None,
    seeds: int | None = None,
) -> list[RunSpec]:
    """The runs of a preset, in the order in which pairs are complete earliest.

    Args:
        preset: see there.
        data: the images.
        images: size of the training split.
        device: "cpu" or "cuda".
        threads: CPU threads of a run.
        inception_weights: their file, or None.
        studiogan: a checkout whose trainer is used, or None.
        gans: only these, and the baselines that they are compared with.
        arms: these and the baseline in place of the preset's.
        seeds: so many in place of the preset's.

    Raises:
        UserError: an unknown name, or k does not reach its floor in time.
    """
    asked = [gan for gan in preset.gans if gans is None or gan.name in gans]
    needed = {gan.compared_with for gan in asked} - {gan.name for gan in asked}
    unknown = sorted(set(gans or ()) - {gan.name for gan in preset.gans})
    if unknown:
        known = ", ".join(repr(gan.name) for gan in preset.gans)
        raise UserError(f"--gan {unknown[0]!r} is not in preset {preset.name}; it has {known}")
    keyed = []
    for position, gan in enumerate(preset.gans):
        for arm in _arms_of(gan, arms, asked=gan in asked, needed=gan.name in needed):
            config = config_of(gan, arm)
            if config.DATA.name != data.name:
                raise UserError(f"preset {preset.name} trains on {config.DATA.name}")
            check_floor(config, images, preset.floor_by)
            for seed in range(seeds or gan.seeds):
                spec = RunSpec(
                    gan=gan.name,
                    arm=arm,
                    seed=seed,
                    config=config.to_dict(),
                    data=data,
                    hold_out=gan.hold_out,
                    precision=preset.precision,
                    threads=threads,
                    device=device,
                    extractor=preset.extractor,
                    inception_weights=inception_weights,
                    samples=preset.samples,
                    looks=preset.looks,
                    studiogan=studiogan,
                )
                keyed.append(((seed, position), spec))
    return [spec for _, spec in sorted(keyed, key=lambda item: item[0])]


def _arms_of(gan: Gan, arms: Sequence[str] | None, *, asked: bool, needed: bool) -> tuple[str, ...]:
    """The arms to run: comparisons come with a baseline, of their own or another GAN's."""
    if not asked:
        return (BASELINE,) if needed else ()
    if arms is None:
        return gan.arms
    others = tuple(arm for arm in arms if arm != BASELINE)
    return others if gan.compared_with else (BASELINE, *others)


def check_floor(config: Config, images: int, floor_by: float) -> None:
    """Refuse a schedule whose floor comes too late to be compared.

    Raises:
        UserError: with a gamma that would do.
    """
    steps_per_epoch = images / images_per_step(config)
    floor_at = steps_to_floor(config, steps_per_epoch)
    total = config.OPTIMIZATION.total_steps
    if floor_at is None or floor_at <= floor_by * total:
        return
    settings = describe_top_k(config, steps_per_epoch)
    raise UserError(
        f"k reaches its floor at step {floor_at:,.0f} of {total:,}, and this comparison needs it "
        f"by {floor_by:.0%} of the run; {settings[-1].removeprefix('note: ')}"
    )
