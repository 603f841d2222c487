"""Which GANs, arms, seeds and sizes a preset compares."""

from dataclasses import replace
from typing import Final

from benchmarks.paper.companion_gans import COMPANION_GANS
from benchmarks.paper.gans import (
    ARMS,
    BASELINE,
    CONFIGS,
    CPU,
    SHORT_STEPS,
    SMALL_SNGAN,
    arms_of,
    schedule,
)
from benchmarks.paper.registered import IMAGE_ABLATIONS, IMAGE_LONG, IMAGE_MORE, IMAGES
from topk_plugin.study.study import AUTO, Arm, Gan, Study


def _ablation(
    name: str, *overrides: str, about: str, nu: float = 0.75, own_baseline: bool = False
) -> Gan:
    return Gan(
        f"SNGAN-small {name}",
        CONFIGS / "CIFAR10/SNGAN-TopK.yaml",
        (*SMALL_SNGAN, *schedule(SHORT_STEPS, nu), *overrides),
        arms=arms_of(BASELINE, "topk") if own_baseline else arms_of("topk"),
        compared_with=None if own_baseline else "SNGAN-small",
        seeds=3,
        about=about,
    )


ABLATIONS: Final = (
    Gan(
        "SNGAN-small",
        CONFIGS / "CIFAR10/SNGAN-TopK.yaml",
        (*SMALL_SNGAN, *schedule(SHORT_STEPS)),
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
            *SMALL_SNGAN,
            *schedule(SHORT_STEPS),
            *("MODEL.g_cond_mtd=W/O", "MODEL.d_cond_mtd=W/O"),
        ),
        arms=arms_of(BASELINE, "topk"),
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


def _of_images(
    name: str,
    gans: tuple[Gan, ...],
    title: str,
    *,
    floor_by: float = 0.25,
    sequential: bool = True,
    looks: int = 4,
) -> Study:
    """A study as registered in protocol.md: its precision, measures, looks and test."""
    return Study(
        name=name,
        gans=gans,
        precision=AUTO,
        extractor="builtin",
        samples=10_000,
        looks=looks,
        late_looks=8,
        final_extractor="imagenet",
        co_primary=("recall",),
        sequential=sequential,
        fewest=12,
        floor_by=floor_by,
        title=title,
        baseline=BASELINE,
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
                    (*_TINY, *schedule(12, nu=0.5, gamma=0.7)),
                    arms=arms_of(BASELINE, "topk"),
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
        _of_images("images", IMAGES, "Top-k, and top-k released again, on narrow GANs of CIFAR-10"),
        _of_images(
            "image-ablations",
            IMAGE_ABLATIONS,
            "One setting of top-k training at a time, on a narrow SNGAN of CIFAR-10",
            floor_by=0.9,
        ),
        _of_images(
            "image-more",
            IMAGE_MORE,
            "Top-k on an unconditional SNGAN of CIFAR-10, and with a large nu",
        ),
        _of_images(
            "image-long",
            IMAGE_LONG,
            "Top-k on a narrow SNGAN of CIFAR-10, three times as long",
            sequential=False,
            looks=12,  # those of the other presets among them
        ),
        Study(
            name="companions",
            gans=COMPANION_GANS,
            precision=AUTO,
            extractor="builtin",
            samples=5000,
            looks=2,
            late_looks=4,
            final_extractor="imagenet",
            co_primary=("recall",),
            floor_by=0.25,
            title="Methods beside top-k, each with it and without, on a narrow SNGAN of CIFAR-10",
            baseline=BASELINE,
        ),
        Study(
            name="companions-rehearsal",
            gans=tuple(
                replace(
                    gan,
                    config=CONFIGS / "Digits/BigGAN-TopK.yaml",
                    overrides=(
                        *(*_TINY, "OPTIMIZATION.d_updates_per_step=1", "MODEL.apply_attn=false"),
                        *schedule(24, nu=0.5, gamma=0.7, by=0.5),
                        *(o for o in gan.overrides if o.startswith("DATA.")),
                    ),
                    seeds=2,
                    about="24 steps on the bundled digits",
                )
                for gan in COMPANION_GANS
            ),
            precision="fp32",
            extractor="builtin",
            samples=200,
            looks=1,
            floor_by=1.0,
            title="Does every arm of the companions' study run?",
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
                        *arms_of(BASELINE, "topk"),
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
