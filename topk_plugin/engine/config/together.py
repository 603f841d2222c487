"""Checks that look at several keys of a config together."""

from collections.abc import Sequence
from dataclasses import fields
from typing import Final

from topk_plugin.base.errors import UserError
from topk_plugin.engine.config.names import Tree
from topk_plugin.engine.config.rules import Rule, shown
from topk_plugin.engine.config.sections import (
    RULE,
    SECTIONS,
    AugConfig,
    DataConfig,
    LossConfig,
    ModelConfig,
    OptimizationConfig,
)

_GENERATOR_BLOCKS: Final = {32: 3, 64: 4, 128: 5}
"""Image size in pixels -> residual blocks of big_resnet's generator (the critic has one more)."""

_SWITCHES: Final[dict[tuple[str, str], tuple[tuple[str, str], ...]]] = {
    ("MODEL", "apply_attn"): (("MODEL", "attn_g_loc"), ("MODEL", "attn_d_loc")),
    ("MODEL", "apply_g_ema"): (("MODEL", "g_ema_decay"), ("MODEL", "g_ema_start")),
    ("LOSS", "apply_fm"): (("LOSS", "fm_lambda"),),
    ("LOSS", "apply_r1_reg"): (("LOSS", "r1_place"), ("LOSS", "r1_lambda")),
    ("LOSS", "apply_gp"): (("LOSS", "gp_lambda"),),
    ("LOSS", "apply_cr"): (("LOSS", "cr_lambda"), ("AUG", "cr_aug_type")),
    ("LOSS", "apply_bcr"): (
        ("LOSS", "real_lambda"),
        ("LOSS", "fake_lambda"),
        ("AUG", "bcr_aug_type"),
    ),
    ("LOSS", "apply_zcr"): (("LOSS", "radius"), ("LOSS", "g_lambda"), ("LOSS", "d_lambda")),
    ("LOSS", "apply_lecam"): (
        ("LOSS", "lecam_lambda"),
        ("LOSS", "lecam_ema_start_iter"),
        ("LOSS", "lecam_ema_decay"),
    ),
    ("AUG", "apply_diffaug"): (("AUG", "diffaug_type"),),
    ("LOSS", "apply_topk"): tuple(
        ("LOSS", f"topk_{key}")
        for key in ("gamma", "nu", "mode", "policy", "scope", "normalize", "every")
    ),
}
_Key = tuple[str, str]
_METHODS: Final[dict[_Key, dict[_Key, tuple[str, ...]]]] = {
    ("MODEL", "d_cond_mtd"): {
        ("LOSS", "cond_lambda"): ("AC", "2C", "D2DCE"),
        ("LOSS", "temperature"): ("2C", "D2DCE"),
        ("LOSS", "m_p"): ("D2DCE",),
        ("MODEL", "d_embed_dim"): ("2C", "D2DCE"),
        ("MODEL", "normalize_d_embed"): ("AC", "2C", "D2DCE"),
    },
    ("OPTIMIZATION", "type_"): {
        ("OPTIMIZATION", "momentum"): ("SGD", "RMSprop"),
        ("OPTIMIZATION", "nesterov"): ("SGD",),
        ("OPTIMIZATION", "alpha"): ("RMSprop",),
    },
}
"""A key that chooses a method -> settings -> the methods that read them."""
_OFF: Final[tuple[object, ...]] = ("N/A", ["N/A"], [], "W/O")


def check_switches(layers: Sequence[Tree]) -> None:
    """Refuse settings that have no effect because nobody turned their switch on.

    A switch written as False is a choice (a paired baseline of a top-k run, say) and lets its
    settings rest; a switch forgotten is a mistake that would cost a training run.

    Args:
        layers: the config file's keys, then the overrides'.

    Raises:
        UserError: a layer sets such a key, and neither it nor a later layer sets the switch.
    """
    for (section, switch), dependents in _SWITCHES.items():
        settings = [layer.get(section, {}).get(switch) for layer in layers]
        given = [setting for setting in settings if setting is not None]
        if given and given[-1] is not False:
            continue
        for index, layer in enumerate(layers):
            if any(setting is not None for setting in settings[index:]):
                continue
            for dependent_section, key in dependents:
                value = layer.get(dependent_section, {}).get(key)
                if value is not None and value not in _OFF:
                    state = "False" if given else "left out"
                    way = (
                        f"add --set {section}.{switch}=true"
                        if given
                        else f"set {section}.{switch} to True to use it, or to False to let it rest"
                    )
                    raise UserError(
                        f"{dependent_section}.{key} is {shown(value)} but has no effect while "
                        f"{section}.{switch} is {state}; {way}"
                    )


def merged(layers: Sequence[Tree]) -> Tree:
    """All layers' keys; later layers win."""
    tree: Tree = {}
    for layer in layers:
        for name, content in layer.items():
            tree[name] = {**tree.get(name, {}), **content}
    return tree


def without_resting(tree: Tree) -> Tree:
    """``tree`` without the settings of methods that are not the chosen ones."""
    kept = {name: dict(content) for name, content in tree.items()}
    for (section, chooser), settings in _METHODS.items():
        for (setting_section, key), methods in settings.items():
            if _chosen(tree, section, chooser) not in methods:
                kept.get(setting_section, {}).pop(key, None)
    return kept


def check_methods(layers: Sequence[Tree]) -> None:
    """Refuse settings that the chosen method does not read.

    Where a later layer has chosen another method (``--set MODEL.d_cond_mtd=PD`` on a file of
    ContraGAN), the settings of the earlier one rest.

    Args:
        layers: the config file's keys, then the overrides'.

    Raises:
        UserError: a layer sets such a key itself.
    """
    for index, layer in enumerate(layers):
        so_far = merged(layers[: index + 1])
        for (section, chooser), settings in _METHODS.items():
            chosen = _chosen(so_far, section, chooser)
            for (setting_section, key), methods in settings.items():
                value = layer.get(setting_section, {}).get(key)
                if value and value not in _OFF and chosen not in methods:
                    readers = " and ".join(map(repr, methods))
                    raise UserError(
                        f"{setting_section}.{key} is {shown(value)} but has no effect while "
                        f"{section}.{chooser} is {shown(chosen)}: only {readers} read it; leave "
                        "it out or set it to 'N/A'"
                    )


def _chosen(tree: Tree, section: str, chooser: str) -> object:
    (default,) = (f.default for f in fields(SECTIONS[section]) if f.name == chooser)
    return tree.get(section, {}).get(chooser, default)


def check_together(
    data: DataConfig,
    model: ModelConfig,
    loss: LossConfig,
    optimization: OptimizationConfig,
    aug: AugConfig,
) -> None:
    """Refuse values that are fine alone but not together.

    Raises:
        UserError: the first such combination found.
    """
    _check_conditioning(data, model)
    _check_conditional_loss(model, loss, optimization)
    _check_label_smoothing(loss)
    _check_penalties(loss)
    _check_widths(data, model)
    _check_blocks(data, model)
    _check_moving_average(model)
    _check_consistency(loss, aug)
    _check_topk(model, loss)
    _check_optimiser(optimization)


def _need(because: str, **settings: object) -> None:
    """Each keyword is SECTION__key; None means it was not given."""
    for name, value in settings.items():
        if value is None:
            section, key = name.split("__", 1)
            attributes = {attribute.name: attribute for attribute in fields(SECTIONS[section])}
            rule: Rule = attributes[key].metadata[RULE]
            raise UserError(
                f"{because} needs {section}.{key}, which has no value; it must be {rule.allowed}"
            )


def _check_conditioning(data: DataConfig, model: ModelConfig) -> None:
    if model.g_cond_mtd == "cBN" and model.backbone == "big_resnet":
        _need("MODEL.g_cond_mtd 'cBN'", MODEL__g_shared_dim=model.g_shared_dim)
    if model.g_shared_dim is not None and model.backbone != "big_resnet":
        raise UserError(
            f"MODEL.g_shared_dim is {model.g_shared_dim}, a setting of MODEL.backbone "
            f"'big_resnet', and backbone is {model.backbone!r}; leave it out"
        )
    methods = {"g_cond_mtd": model.g_cond_mtd, "d_cond_mtd": model.d_cond_mtd}
    for key, method in methods.items():
        if method != "W/O" and data.num_classes < 2:
            raise UserError(
                f"MODEL.{key} {method!r} needs DATA.num_classes of at least 2 and it is "
                f"{data.num_classes}; use 'W/O' for data without classes"
            )


def _check_conditional_loss(
    model: ModelConfig, loss: LossConfig, optimization: OptimizationConfig
) -> None:
    method = f"MODEL.d_cond_mtd {model.d_cond_mtd!r}"
    if model.d_cond_mtd in ("2C", "D2DCE"):
        _need(method, MODEL__d_embed_dim=model.d_embed_dim)
    if model.d_cond_mtd in ("AC", "2C", "D2DCE"):
        _need(method, LOSS__cond_lambda=loss.cond_lambda)
    if model.d_cond_mtd in ("2C", "D2DCE"):
        _need(method, LOSS__temperature=loss.temperature)
        if optimization.batch_size < 2:
            raise UserError(
                f"{method} contrasts the samples of a batch and needs OPTIMIZATION.batch_size of "
                f"at least 2; it is {optimization.batch_size}"
            )
    if model.d_cond_mtd == "D2DCE":
        _need(method, LOSS__m_p=loss.m_p)


def _check_label_smoothing(loss: LossConfig) -> None:
    if loss.real_label != 1 and loss.adv_loss != "vanilla":
        raise UserError(
            f"LOSS.real_label is {loss.real_label:g}, a target of the vanilla loss, but "
            f"LOSS.adv_loss is {loss.adv_loss!r}; use 'vanilla', or leave real_label out"
        )


def _check_penalties(loss: LossConfig) -> None:
    if loss.apply_gp:
        _need("LOSS.apply_gp", LOSS__gp_lambda=loss.gp_lambda)
    if loss.apply_fm:
        _need("LOSS.apply_fm", LOSS__fm_lambda=loss.fm_lambda)
    if loss.apply_r1_reg:
        _need("LOSS.apply_r1_reg", LOSS__r1_lambda=loss.r1_lambda)
        if loss.r1_place == "outside_loop":
            raise UserError(
                "LOSS.r1_place is 'outside_loop', StudioGAN's update of its own for StyleGAN "
                "backbones; with others it penalises in every update of the discriminator, so "
                "use 'inside_loop' or leave r1_place out"
            )
    if loss.apply_lecam:
        _need(
            "LOSS.apply_lecam",
            LOSS__lecam_lambda=loss.lecam_lambda,
            LOSS__lecam_ema_start_iter=loss.lecam_ema_start_iter,
            LOSS__lecam_ema_decay=loss.lecam_ema_decay,
        )


def _check_widths(data: DataConfig, model: ModelConfig) -> None:
    widths = {"g_conv_dim": model.g_conv_dim, "d_conv_dim": model.d_conv_dim}
    if model.backbone != "deep_conv":
        for key, width in widths.items():
            _need(f"MODEL.backbone {model.backbone!r}", **{f"MODEL__{key}": width})
        return
    if data.img_size != 32:
        raise UserError(
            f"DATA.img_size is {data.img_size}; MODEL.backbone 'deep_conv' makes images of 32 only"
        )
    for key, width in widths.items():
        if width is not None:
            raise UserError(
                f"MODEL.{key} is {width} (64 where it is left out), but the widths of "
                "MODEL.backbone 'deep_conv' are fixed; set it to 'N/A', or choose 'resnet' or "
                "'big_resnet'"
            )


def _check_blocks(data: DataConfig, model: ModelConfig) -> None:
    blocks = _GENERATOR_BLOCKS[data.img_size]
    chunks = blocks + 1  # one part of z for the first layer and one for each block
    if model.backbone == "big_resnet" and model.z_dim % chunks:
        below = model.z_dim // chunks * chunks
        choices = f"{below} or {below + chunks}" if below else f"{chunks}"
        raise UserError(
            f"MODEL.z_dim is {model.z_dim}; at DATA.img_size {data.img_size} it must be divisible "
            f"by {chunks} (one part for the first layer and one for each of {blocks} blocks), "
            f"for example {choices}"
        )
    if not model.apply_attn:
        return
    if not (model.attn_g_loc or model.attn_d_loc):
        raise UserError(
            "MODEL.apply_attn is True but MODEL.attn_g_loc and MODEL.attn_d_loc name no block; "
            "give at least one, for example attn_g_loc: [2]"
        )
    for key, locations, last in (
        ("attn_g_loc", model.attn_g_loc, blocks),
        ("attn_d_loc", model.attn_d_loc, blocks + (model.backbone != "deep_conv")),
    ):
        if any(location > last for location in locations):
            raise UserError(
                f"MODEL.{key} is {list(locations)}; at DATA.img_size {data.img_size} blocks are "
                f"numbered from 1 to {last}"
            )


def _check_moving_average(model: ModelConfig) -> None:
    if model.apply_g_ema:
        _need(
            "MODEL.apply_g_ema",
            MODEL__g_ema_decay=model.g_ema_decay,
            MODEL__g_ema_start=model.g_ema_start,
        )


def _check_consistency(loss: LossConfig, aug: AugConfig) -> None:
    if aug.apply_diffaug and aug.diffaug_type == "W/O":
        raise UserError("AUG.apply_diffaug needs AUG.diffaug_type 'cr' or 'diffaug'; it is 'W/O'")
    if loss.apply_cr:
        _need("LOSS.apply_cr", LOSS__cr_lambda=loss.cr_lambda)
        if aug.cr_aug_type == "W/O":
            raise UserError("LOSS.apply_cr needs AUG.cr_aug_type 'cr' or 'diffaug'; it is 'W/O'")
    if loss.apply_bcr:
        _need(
            "LOSS.apply_bcr", LOSS__real_lambda=loss.real_lambda, LOSS__fake_lambda=loss.fake_lambda
        )
        if aug.bcr_aug_type == "W/O":
            raise UserError("LOSS.apply_bcr needs AUG.bcr_aug_type 'bcr' or 'diffaug'; it is 'W/O'")
    for switch, on in (("apply_bcr", loss.apply_bcr), ("apply_zcr", loss.apply_zcr)):
        if loss.apply_cr and on:
            raise UserError(
                f"LOSS.apply_cr and LOSS.{switch} are both True, which StudioGAN refuses; use "
                "LOSS.apply_bcr, which contains the term, in place of apply_cr"
            )
    if loss.apply_zcr:
        _need(
            "LOSS.apply_zcr",
            LOSS__radius=loss.radius,
            LOSS__g_lambda=loss.g_lambda,
            LOSS__d_lambda=loss.d_lambda,
        )


def _check_topk(model: ModelConfig, loss: LossConfig) -> None:
    if not loss.apply_topk:
        return
    _need("LOSS.apply_topk", LOSS__topk_gamma=loss.topk_gamma, LOSS__topk_nu=loss.topk_nu)
    if loss.topk_policy == "balanced" and model.g_cond_mtd == "W/O":
        raise UserError(
            "LOSS.topk_policy 'balanced' keeps the best of each class, but with MODEL.g_cond_mtd "
            "'W/O' the generator is given none; use another policy, or g_cond_mtd 'cBN'"
        )
    if loss.topk_mode == "slice":
        for key, value, only in (
            ("topk_policy", loss.topk_policy, "top"),
            ("topk_scope", loss.topk_scope or "rank", "rank"),
            ("topk_normalize", loss.topk_normalize, "kept"),
        ):
            if value != only:
                raise UserError(
                    f"LOSS.{key} is {value!r}; with LOSS.topk_mode 'slice' (StudioGAN's own code) "
                    f"it can only be {only!r}, so use topk_mode 'gate'"
                )


def _check_optimiser(optimization: OptimizationConfig) -> None:
    name = f"OPTIMIZATION.type_ {optimization.type_!r}"
    if optimization.type_ in ("SGD", "RMSprop"):
        _need(name, OPTIMIZATION__momentum=optimization.momentum)
    if optimization.type_ == "RMSprop":
        _need(name, OPTIMIZATION__alpha=optimization.alpha)
    if optimization.type_ == "SGD":
        _need(name, OPTIMIZATION__nesterov=optimization.nesterov)
        if optimization.nesterov and not optimization.momentum:
            raise UserError(
                "OPTIMIZATION.nesterov needs OPTIMIZATION.momentum above 0; it is "
                f"{optimization.momentum}"
            )
