"""The GANs of protocol.md and protocol_more.md: registered there before they were run."""

from dataclasses import replace
from typing import Final

from benchmarks.paper.gans import ARMS, BASELINE, CPU, STEPS, average, schedule
from topk_plugin.study.study import Arm, Gan

_FIRST_SEED: Final = 100
_PAPERS: Final = Arm("topk", ("LOSS.topk_policy=top",))


def _released(steps: int) -> Arm:
    return Arm(
        "released",
        (
            *schedule(steps, nu=0.5, by=0.1)[1:],
            *("LOSS.topk_release_from=30%", "LOSS.topk_release_to=60%"),
        ),
    )


_QUARTER: Final = schedule(STEPS, by=0.25)


def _registered(gan: Gan) -> Gan:
    """One of the ``cpu`` preset's GANs with the protocol's arms, schedule and seeds."""
    return replace(
        gan,
        overrides=(*gan.overrides, *_QUARTER),
        arms=(ARMS[BASELINE], _PAPERS, _released(STEPS)),
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
            Arm("nu50", schedule(STEPS, nu=0.5, by=0.25)[1:]),
            Arm("early", schedule(STEPS, by=0.05)[1:]),
            Arm("late", schedule(STEPS, by=0.87)[1:]),
        ),
    ),
    _batch(32),
    _batch(128),
)

# Of protocol_more.md.
_LONG: Final = 3 * STEPS
IMAGE_MORE: Final = (
    replace(
        _SNGAN,
        name="SNGAN unconditional",
        overrides=(*_SNGAN.overrides, "MODEL.g_cond_mtd=W/O", "MODEL.d_cond_mtd=W/O"),
        about=f"unconditional, widths 16 and 24, {STEPS:,} steps with 2 critic updates",
    ),
    replace(
        _SNGAN,
        arms=(ARMS[BASELINE], Arm("nu90", schedule(STEPS, nu=0.9, by=0.25)[1:])),
    ),
)
IMAGE_LONG: Final = (
    replace(
        _SNGAN,
        name="SNGAN long",
        overrides=(*_SNGAN.overrides, *average(_LONG), *schedule(_LONG, by=0.25)),
        arms=(ARMS[BASELINE], _PAPERS, _released(_LONG)),
        seeds=6,
        about=f"cBN and PD, widths 16 and 24, {_LONG:,} steps with 2 critic updates",
    ),
)
