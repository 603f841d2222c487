"""The methods beside top-k that companions_protocol.md compares, each with it and without."""

from collections.abc import Iterable
from typing import Final

from benchmarks.paper.gans import BASELINE, CONFIGS, NARROW, average, schedule
from topk_plugin.study.study import Arm, Gan

_COMPANION_STEPS: Final = 1500
_LECAM: Final = (
    *("LOSS.apply_lecam=true", "LOSS.lecam_lambda=0.3"),
    *("LOSS.lecam_ema_start_iter=100", "LOSS.lecam_ema_decay=0.99"),
)
_DIFF_AUGMENT: Final = ("AUG.apply_diffaug=true", "AUG.diffaug_type=diffaug")
_R1_AND_R2: Final = (
    *("LOSS.apply_r1_reg=true", "LOSS.r1_place=inside_loop", "LOSS.r1_lambda=1.0"),
    *("LOSS.apply_r2_reg=true", "LOSS.r2_lambda=1.0"),
)
VANILLA: Final = "vanilla"
COMPANIONS: Final[dict[str, tuple[str, ...]]] = {
    "SAN": ("LOSS.apply_san=true",),
    "relativistic": ("LOSS.adv_loss=relativistic",),
    "R3GAN-loss": ("LOSS.adv_loss=relativistic", *_R1_AND_R2),
    "NICE": ("LOSS.apply_nice=true",),
    "masking": ("AUG.apply_masking=true",),
    "SFL": ("LOSS.apply_sfl=true",),
    "SFL+": ("LOSS.apply_sfl=true", "LOSS.sfl_reals=density"),
    "minibatch": ("LOSS.apply_minibatch=true",),
    "historical": ("LOSS.apply_historical=true", "LOSS.historical_lambda=0.0001"),
    "selection": ("DATA.keep=0.5",),
    "TTUR": ("OPTIMIZATION.g_lr=0.0001", "OPTIMIZATION.d_lr=0.0004"),
    "matching": ("LOSS.apply_fm=true", "LOSS.fm_lambda=1.0"),
    "DiffAugment": _DIFF_AUGMENT,
    "LeCam": _LECAM,
    VANILLA: ("LOSS.adv_loss=vanilla",),
    "smoothing": ("LOSS.adv_loss=vanilla", "LOSS.real_label=0.9"),
    "Dia-GAN": ("LOSS.adv_loss=vanilla", "DATA.apply_diagan=true", "DATA.diagan_snapshots=5"),
}
"""Arms -> what turns each on. Those of the vanilla loss are compared with ``VANILLA``."""
FOR_LITTLE_DATA: Final = ("NICE", "masking", "DiffAugment", "LeCam", VANILLA, "Dia-GAN")


def companion_arms(names: Iterable[str]) -> tuple[Arm, ...]:
    """The baseline and each method, then each of them with top-k as well."""
    methods = {BASELINE: (), **{name: COMPANIONS[name] for name in names}}
    alone = (Arm(name, (*on, "LOSS.apply_topk=false")) for name, on in methods.items())
    both = (
        Arm("topk" if name == BASELINE else f"{name}+topk", (*on, "LOSS.topk_policy=top"))
        for name, on in methods.items()
    )
    return (*alone, *both)


_COMPANION_SETTINGS: Final = (
    *(*NARROW, "OPTIMIZATION.d_updates_per_step=2"),
    *(*average(_COMPANION_STEPS), *schedule(_COMPANION_STEPS, by=0.25)),
)
COMPANION_GANS: Final = (
    Gan(
        "SNGAN",
        CONFIGS / "CIFAR10/SNGAN-TopK.yaml",
        _COMPANION_SETTINGS,
        arms=companion_arms(COMPANIONS),
        first_seed=200,
        about=f"cBN and PD, widths 16 and 24, {_COMPANION_STEPS:,} steps with 2 critic updates",
    ),
    Gan(
        "SNGAN few",
        CONFIGS / "CIFAR10/SNGAN-TopK.yaml",
        (*_COMPANION_SETTINGS, "DATA.share=0.1"),
        arms=companion_arms(FOR_LITTLE_DATA),
        first_seed=200,
        about="the same on a tenth of the images",
    ),
)
