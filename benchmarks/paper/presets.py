"""Which GANs, arms, seeds and sizes a preset compares."""

from dataclasses import replace
from pathlib import Path
from typing import Final

from topk_plugin.study.study import AUTO, Arm, Gan, Study

CONFIGS: Final = Path(__file__).resolve().parents[2] / "configs"
BASELINE: Final = "baseline"
ARMS: Final[dict[str, Arm]] = {
    arm.name: arm
    for arm in (
        Arm(BASELINE, ("LOSS.apply_topk=false",)),
        Arm("topk", ("LOSS.topk_policy=top",)),
        Arm("bottomk", ("LOSS.topk_policy=bottom",)),
        Arm("randomk", ("LOSS.topk_policy=random",)),
        Arm("balancedk", ("LOSS.topk_policy=balanced",)),
    )
}
"""Those that ``--arm`` chooses from."""


def _arms(*names: str) -> tuple[Arm, ...]:
    return tuple(ARMS[name] for name in names)


# k falls by the paper's gamma, 0.99, so often that it is at its floor at this share of a run.
def _schedule(
    steps: int, nu: float = 0.75, gamma: float = 0.99, by: float = 0.5
) -> tuple[str, ...]:
    updates, fraction = 0, 1.0
    while fraction > nu:
        updates, fraction = updates + 1, fraction * gamma
    every = max(1, int(steps * by) // updates)
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
        CONFIGS / "CIFAR10/DCGAN-TopK.yaml",
        (*_DCGAN, *_schedule(_DCGAN_STEPS)),
        arms=_arms(BASELINE, "topk"),
        about="unconditional, StudioGAN's widths, spectral normalisation in the critic, "
        f"{_DCGAN_STEPS:,} steps of one update each",
    ),
    Gan(
        "SNGAN",
        CONFIGS / "CIFAR10/SNGAN-TopK.yaml",
        (*_NARROW, *_TWO_UPDATES, *_schedule(_STEPS)),
        arms=_arms(BASELINE, "topk", "bottomk", "randomk"),
        about=f"cBN and PD, widths 16 and 24, {_STEPS:,} steps with 2 critic updates",
    ),
    Gan(
        "BigGAN",
        CONFIGS / "CIFAR10/BigGAN-TopK.yaml",
        (*_NARROW, "MODEL.g_shared_dim=32", *_TWO_UPDATES, *_schedule(_STEPS)),
        arms=_arms(BASELINE, "topk"),
        seeds=3,
        about=f"cBN and PD, widths 16 and 24, {_STEPS:,} steps with 2 critic updates",
    ),
    Gan(
        "ContraGAN",
        CONFIGS / "CIFAR10/ContraGAN-TopK.yaml",
        (
            *(*_NARROW, "MODEL.g_shared_dim=32", "MODEL.d_embed_dim=128"),
            *(*_TWO_UPDATES, *_schedule(_STEPS)),
        ),
        arms=_arms(BASELINE, "topk"),
        seeds=3,
        about=f"cBN and 2C, widths 16 and 24, {_STEPS:,} steps with 2 critic updates",
    ),
)


def _ablation(
    name: str, *overrides: str, about: str, nu: float = 0.75, own_baseline: bool = False
) -> Gan:
    return Gan(
        f"SNGAN-small {name}",
        CONFIGS / "CIFAR10/SNGAN-TopK.yaml",
        (*_SMALL_SNGAN, *_schedule(_SHORT_STEPS, nu), *overrides),
        arms=_arms(BASELINE, "topk") if own_baseline else _arms("topk"),
        compared_with=None if own_baseline else "SNGAN-small",
        seeds=3,
        about=about,
    )


ABLATIONS: Final = (
    Gan(
        "SNGAN-small",
        CONFIGS / "CIFAR10/SNGAN-TopK.yaml",
        (*_SMALL_SNGAN, *_schedule(_SHORT_STEPS)),
        arms=tuple(ARMS.values()),
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
        CONFIGS / "CIFAR10/SNGAN-TopK.yaml",
        (
            *_SMALL_SNGAN,
            *_schedule(_SHORT_STEPS),
            *("MODEL.g_cond_mtd=W/O", "MODEL.d_cond_mtd=W/O"),
        ),
        arms=_arms(BASELINE, "topk"),
        seeds=3,
        hold_out=name,
        about=f"unconditional, trained without {name}",
    )
    for name in ("airplane", "automobile", "horse")
)

# Of protocol.md beside this file, where it is registered what is run, tested and when it stops.
_FIRST_SEED: Final = 100
_PAPERS: Final = Arm("topk", ("LOSS.topk_policy=top",))
_RELEASED: Final = Arm(
    "released",
    (
        *_schedule(_STEPS, nu=0.5, by=0.1)[1:],
        *("LOSS.topk_release_from=30%", "LOSS.topk_release_to=60%"),
    ),
)
_QUARTER: Final = _schedule(_STEPS, by=0.25)


def _registered(gan: Gan) -> Gan:
    """One of the ``cpu`` preset's GANs with the protocol's arms, schedule and seeds."""
    return replace(
        gan,
        overrides=(*gan.overrides, *_QUARTER),
        arms=(ARMS[BASELINE], _PAPERS, _RELEASED),
        first_seed=_FIRST_SEED,
    )


IMAGES: Final = tuple(_registered(gan) for gan in CPU if gan.name != "DCGAN")
_SNGAN: Final = IMAGES[0]


def _batch(size: int) -> Gan:
    overrides = (*_SNGAN.overrides, f"OPTIMIZATION.batch_size={size}")
    return replace(
        _SNGAN,
        name=f"SNGAN batch {size}",
        overrides=overrides,
        arms=(ARMS[BASELINE], _PAPERS),
        about=f"{_SNGAN.about}, batch {size}",
    )


IMAGE_ABLATIONS: Final = (
    replace(
        _SNGAN,
        arms=(
            ARMS[BASELINE],
            *(ARMS["randomk"], ARMS["bottomk"]),
            Arm("nu50", _schedule(_STEPS, nu=0.5, by=0.25)[1:]),
            Arm("early", _schedule(_STEPS, by=0.05)[1:]),
            Arm("late", _schedule(_STEPS, by=0.87)[1:]),
        ),
    ),
    _batch(32),
    _batch(128),
)

_TINY: Final = (
    *("MODEL.g_conv_dim=8", "MODEL.d_conv_dim=8", "MODEL.g_ema_start=2"),
    *("OPTIMIZATION.batch_size=16", "MODEL.g_ema_decay=0.5"),
)

PRESETS: Final[dict[str, Study]] = {
    preset.name: preset
    for preset in (
        Study(
            name="smoke",
            gans=(
                Gan(
                    "BigGAN",
                    CONFIGS / "Digits/BigGAN-TopK.yaml",
                    (*_TINY, *_schedule(12, nu=0.5, gamma=0.7)),
                    arms=_arms(BASELINE, "topk"),
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
            baseline=BASELINE,
        ),
        Study(
            name="cpu",
            gans=CPU,
            precision="bf16",
            extractor="builtin",
            samples=5000,
            looks=5,
            floor_by=0.5,
            title="Top-k training of narrow GANs on CIFAR-10",
            baseline=BASELINE,
        ),
        Study(
            name="ablations",
            gans=ABLATIONS,
            precision="bf16",
            extractor="builtin",
            samples=5000,
            looks=3,
            floor_by=1.0,
            title="What changes when one setting of top-k training does",
            baseline=BASELINE,
        ),
        Study(
            name="anomaly",
            gans=ANOMALY,
            precision="bf16",
            extractor="builtin",
            samples=5000,
            looks=1,
            floor_by=0.5,
            title="Finding a class that the training never saw",
            baseline=BASELINE,
        ),
        Study(
            name="images",
            gans=IMAGES,
            precision=AUTO,
            extractor="builtin",
            samples=10_000,
            looks=4,
            late_looks=8,
            final_extractor="imagenet",
            co_primary=("recall",),
            sequential=True,
            fewest=12,
            floor_by=0.25,
            title="Top-k, and top-k released again, on narrow GANs of CIFAR-10",
            baseline=BASELINE,
        ),
        Study(
            name="image-ablations",
            gans=IMAGE_ABLATIONS,
            precision=AUTO,
            extractor="builtin",
            samples=10_000,
            looks=4,
            late_looks=8,
            final_extractor="imagenet",
            co_primary=("recall",),
            sequential=True,
            fewest=12,
            floor_by=0.9,
            title="One setting of top-k training at a time, on a narrow SNGAN of CIFAR-10",
            baseline=BASELINE,
        ),
        Study(
            name="paper",
            gans=(
                Gan(
                    "BigGAN-ICR",
                    CONFIGS / "CIFAR10/BigGAN-ICR-TopK.yaml",
                    (),
                    arms=(
                        *_arms(BASELINE, "topk"),
                        Arm(
                            "released",
                            (
                                "LOSS.topk_nu=0.5",  # after 69 epochs, 11 % of the run
                                *("LOSS.topk_release_from=30%", "LOSS.topk_release_to=60%"),
                            ),
                        ),
                    ),
                    about="StudioGAN's full hyper-parameters, 100,000 steps",
                ),
            ),
            precision="fp32",
            extractor="inception",
            samples=50_000,
            looks=20,
            floor_by=1.0,
            title="CIFAR-10, class-conditional: BigGAN-ICR with and without top-k",
            baseline=BASELINE,
        ),
    )
}
