"""The GANs and arms that presets are made of."""

from pathlib import Path
from typing import Final

from topk_plugin.study.study import Arm, Gan

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


def arms_of(*names: str) -> tuple[Arm, ...]:
    """Those of ``ARMS`` with these names."""
    return tuple(ARMS[name] for name in names)


def schedule(steps: int, nu: float = 0.75, gamma: float = 0.99, by: float = 0.5) -> tuple[str, ...]:
    """The run's length, and a k that falls so often that it is at its floor at a share of it.

    Args:
        steps: of the run.
        nu: the floor, a share of the batch.
        gamma: the paper's, by which k falls.
        by: the share of the run.
    """
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


def average(steps: int) -> tuple[str, ...]:
    """A moving average of about a twentieth of the run."""
    decay = round(1 - 20 / steps, 4)
    start = steps // 10
    return (
        "MODEL.apply_g_ema=true",
        f"MODEL.g_ema_decay={decay}",
        f"MODEL.g_ema_start={start}",
    )


NARROW: Final = ("MODEL.g_conv_dim=16", "MODEL.d_conv_dim=24")
_DCGAN_STEPS, STEPS, SHORT_STEPS = 1500, 2000, 1500
# With batch normalisation its critic tells real from fake without a mistake after 300 steps of this
# batch size, and the images stay noise; with spectral normalisation it learns.
_DCGAN: Final = (
    *("OPTIMIZATION.d_updates_per_step=1", "MODEL.apply_d_sn=true"),
    *average(_DCGAN_STEPS),
)
_TWO_UPDATES: Final = ("OPTIMIZATION.d_updates_per_step=2", *average(STEPS))
SMALL_SNGAN: Final = (
    *("MODEL.g_conv_dim=12", "MODEL.d_conv_dim=16", "OPTIMIZATION.d_updates_per_step=1"),
    *average(SHORT_STEPS),
)

CPU: Final = (
    Gan(
        "DCGAN",
        CONFIGS / "CIFAR10/DCGAN-TopK.yaml",
        (*_DCGAN, *schedule(_DCGAN_STEPS)),
        arms=arms_of(BASELINE, "topk"),
        about="unconditional, StudioGAN's widths, spectral normalisation in the critic, "
        f"{_DCGAN_STEPS:,} steps of one update each",
    ),
    Gan(
        "SNGAN",
        CONFIGS / "CIFAR10/SNGAN-TopK.yaml",
        (*NARROW, *_TWO_UPDATES, *schedule(STEPS)),
        arms=arms_of(BASELINE, "topk", "bottomk", "randomk"),
        about=f"cBN and PD, widths 16 and 24, {STEPS:,} steps with 2 critic updates",
    ),
    Gan(
        "BigGAN",
        CONFIGS / "CIFAR10/BigGAN-TopK.yaml",
        (*NARROW, "MODEL.g_shared_dim=32", *_TWO_UPDATES, *schedule(STEPS)),
        arms=arms_of(BASELINE, "topk"),
        seeds=3,
        about=f"cBN and PD, widths 16 and 24, {STEPS:,} steps with 2 critic updates",
    ),
    Gan(
        "ContraGAN",
        CONFIGS / "CIFAR10/ContraGAN-TopK.yaml",
        (
            *(*NARROW, "MODEL.g_shared_dim=32", "MODEL.d_embed_dim=128"),
            *(*_TWO_UPDATES, *schedule(STEPS)),
        ),
        arms=arms_of(BASELINE, "topk"),
        seeds=3,
        about=f"cBN and 2C, widths 16 and 24, {STEPS:,} steps with 2 critic updates",
    ),
)
