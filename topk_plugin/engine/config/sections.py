"""The sections of a config as typed, frozen dataclasses.

Attributes and defaults are StudioGAN's; its "N/A" is None here. Only what the built-in engine
supports has an attribute. Each field carries the rule its values have to meet (see
`topk_plugin.engine.config.rules`); the rules are applied when a config is read, not when a
dataclass is constructed directly.
"""

from dataclasses import dataclass, field
from typing import Any, Final

from topk_plugin.engine.config.rules import Blocks, Every, Flag, Number, OneOf, Rule, Text, Whole

RULE: Final = "rule"
ABSENT: Final = "may be absent"
_ACTIVATIONS: Final = OneOf(("ReLU", "Leaky_ReLU", "ELU", "GELU"), studiogan=("Auto",))
_INITIALISATIONS: Final = OneOf(("ortho", "N02", "glorot", "xavier"))
_STRENGTH: Final = Number(at_least=0.0)
_FRACTION: Final = Number(above=0.0, at_most=1.0)
_OTHER_AUGMENTATIONS: Final = (
    *("simclr_basic", "simclr_hq", "simclr_hq_cutout", "byol", "blit", "geom", "color", "filter"),
    *("noise", "cutout", "bg", "bgc", "bgcf", "bgcfn", "bgcfnc"),
)


def _key(default: object, rule: Rule, *, may_be_absent: bool = False) -> Any:
    """A dataclass field; "N/A" in a YAML file is None, where that or the default allows it."""
    return field(default=default, metadata={RULE: rule, ABSENT: may_be_absent or default is None})


@dataclass(frozen=True)
class DataConfig:
    """Section DATA: what is learnt."""

    name: str = _key("CIFAR10", Text())
    img_size: int = _key(32, OneOf((32, 64, 128), studiogan=(256, 512)))
    num_classes: int = _key(10, Whole(1))
    img_channels: int = _key(3, OneOf((3,)))


@dataclass(frozen=True)
class ModelConfig:
    """Section MODEL: generator, discriminator, latent and the generator's moving average."""

    backbone: str = _key(
        "resnet",
        OneOf(
            ("deep_conv", "resnet", "big_resnet"),
            studiogan=(
                *("big_resnet_deep_legacy", "big_resnet_deep_studiogan"),
                *("stylegan2", "stylegan3"),
            ),
        ),
    )
    g_cond_mtd: str = _key("W/O", OneOf(("W/O", "cBN"), studiogan=("cAdaIN",)))
    d_cond_mtd: str = _key(
        "W/O", OneOf(("W/O", "PD", "AC", "2C", "D2DCE"), studiogan=("MH", "MD", "SPD"))
    )
    normalize_d_embed: bool = _key(False, Flag())
    d_embed_dim: int | None = _key(None, Whole(1))
    apply_g_sn: bool = _key(False, Flag())
    apply_d_sn: bool = _key(False, Flag())
    g_act_fn: str = _key("ReLU", _ACTIVATIONS)
    d_act_fn: str = _key("ReLU", _ACTIVATIONS)
    apply_attn: bool = _key(False, Flag())
    attn_g_loc: tuple[int, ...] = _key((), Blocks())
    attn_d_loc: tuple[int, ...] = _key((), Blocks())
    z_prior: str = _key("gaussian", OneOf(("gaussian", "uniform")))
    z_dim: int = _key(128, Whole(1))
    g_shared_dim: int | None = _key(None, Whole(1))
    g_conv_dim: int | None = _key(64, Whole(1), may_be_absent=True)
    d_conv_dim: int | None = _key(64, Whole(1), may_be_absent=True)
    apply_g_ema: bool = _key(False, Flag())
    g_ema_decay: float | None = _key(None, Number(at_least=0.0, below=1.0))
    g_ema_start: int | None = _key(None, Whole(0))
    g_init: str = _key("ortho", _INITIALISATIONS)
    d_init: str = _key("ortho", _INITIALISATIONS)


@dataclass(frozen=True)
class LossConfig:
    """Section LOSS: adversarial and conditional loss, regularisers, top-k.

    ``topk_scope`` None means "global" where several processes train together, else "rank".
    ``real_label`` is the target of real images in the vanilla loss (one-sided label smoothing).
    """

    adv_loss: str = _key(
        "vanilla",
        OneOf(("vanilla", "logistic", "least_square", "hinge", "wasserstein"), studiogan=("MH",)),
    )
    real_label: float = _key(1.0, _FRACTION)
    cond_lambda: float | None = _key(None, _STRENGTH)
    temperature: float | None = _key(None, Number(above=0.0))
    m_p: float | None = _key(None, _FRACTION)
    apply_fm: bool = _key(False, Flag())
    fm_lambda: float | None = _key(None, _STRENGTH)
    apply_r1_reg: bool = _key(False, Flag())
    r1_place: str | None = _key(None, OneOf(("inside_loop", "outside_loop")))
    r1_lambda: float | None = _key(None, _STRENGTH)
    apply_gp: bool = _key(False, Flag())
    gp_lambda: float | None = _key(None, _STRENGTH)
    apply_cr: bool = _key(False, Flag())
    cr_lambda: float | None = _key(None, _STRENGTH)
    apply_bcr: bool = _key(False, Flag())
    real_lambda: float | None = _key(None, _STRENGTH)
    fake_lambda: float | None = _key(None, _STRENGTH)
    apply_zcr: bool = _key(False, Flag())
    radius: float | None = _key(None, Number(above=0.0))
    g_lambda: float | None = _key(None, _STRENGTH)
    d_lambda: float | None = _key(None, _STRENGTH)
    apply_lecam: bool = _key(False, Flag())
    lecam_lambda: float | None = _key(None, _STRENGTH)
    lecam_ema_start_iter: int | None = _key(None, Whole(1))
    lecam_ema_decay: float | None = _key(None, Number(at_least=0.0, below=1.0))
    apply_topk: bool = _key(False, Flag())
    topk_gamma: float | None = _key(None, _FRACTION)
    topk_nu: float | None = _key(None, _FRACTION)
    topk_mode: str = _key("gate", OneOf(("gate", "slice")))
    topk_policy: str = _key("top", OneOf(("top", "bottom", "random", "balanced")))
    topk_scope: str | None = _key(None, OneOf(("rank", "global")))
    topk_normalize: str = _key("kept", OneOf(("kept", "batch")))
    topk_every: str | int = _key("epoch", Every())


@dataclass(frozen=True)
class OptimizationConfig:
    """Section OPTIMIZATION: optimisers, batch size and the order of updates in a step."""

    type_: str = _key("Adam", OneOf(("Adam", "SGD", "RMSprop")))
    batch_size: int = _key(64, Whole(1))
    acml_steps: int = _key(1, Whole(1))
    g_lr: float = _key(0.0002, Number(above=0.0))
    d_lr: float = _key(0.0002, Number(above=0.0))
    g_weight_decay: float = _key(0.0, _STRENGTH)
    d_weight_decay: float = _key(0.0, _STRENGTH)
    momentum: float | None = _key(None, Number(at_least=0.0, below=1.0))
    nesterov: bool | None = _key(None, Flag())
    alpha: float | None = _key(None, Number(at_least=0.0, below=1.0))
    beta1: float = _key(0.5, Number(at_least=0.0, below=1.0))
    beta2: float = _key(0.999, Number(at_least=0.0, below=1.0))
    d_first: bool = _key(True, Flag())
    g_updates_per_step: int = _key(1, Whole(1))
    d_updates_per_step: int = _key(5, Whole(1))
    total_steps: int = _key(100000, Whole(1))


@dataclass(frozen=True)
class PreConfig:
    """Section PRE: preprocessing of real images."""

    apply_rflip: bool = _key(True, Flag())


@dataclass(frozen=True)
class AugConfig:
    """Section AUG: the critic's augmentation, and those that consistency terms compare with."""

    apply_diffaug: bool = _key(False, Flag())
    diffaug_type: str = _key("W/O", OneOf(("W/O", "cr", "diffaug"), studiogan=_OTHER_AUGMENTATIONS))
    cr_aug_type: str = _key("W/O", OneOf(("W/O", "cr", "diffaug"), studiogan=_OTHER_AUGMENTATIONS))
    bcr_aug_type: str = _key(
        "W/O", OneOf(("W/O", "bcr", "diffaug"), studiogan=_OTHER_AUGMENTATIONS)
    )


SECTIONS: Final[dict[str, type]] = {
    "DATA": DataConfig,
    "MODEL": ModelConfig,
    "LOSS": LossConfig,
    "OPTIMIZATION": OptimizationConfig,
    "PRE": PreConfig,
    "AUG": AugConfig,
}
