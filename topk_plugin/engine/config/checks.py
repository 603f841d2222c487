"""Checks that look at several keys of a config together."""

from collections.abc import Sequence
from typing import Final

from topk_plugin.base.errors import UserError
from topk_plugin.engine.config.names import Tree
from topk_plugin.engine.config.table import Table
from topk_plugin.engine.keys.key import Key
from topk_plugin.engine.keys.rules import shown
from topk_plugin.engine.keys.settings import Settings
from topk_plugin.engine.methods.registry import all_methods
from topk_plugin.engine.networks.backbones import backbone_of

_OFF: Final[tuple[object, ...]] = ("N/A", ["N/A"], [], "W/O")


def check_switches(layers: Sequence[Tree], table: Table) -> None:
    """Refuse settings that have no effect because nobody turned their switch on.

    A switch written as False is a choice (a paired baseline of a top-k run, say) and lets its
    settings rest; a switch forgotten is a mistake that would cost a training run.

    Args:
        layers: the config file's keys, then the overrides'.
        table: all keys.

    Raises:
        UserError: a layer sets such a key, and neither it nor a later layer sets the switch.
    """
    for switch, dependents in table.switches.items():
        settings = [layer.get(switch.section, {}).get(switch.key) for layer in layers]
        given = [setting for setting in settings if setting is not None]
        if given and given[-1] is not False:
            continue
        name = f"{switch.section}.{switch.key}"
        for index, layer in enumerate(layers):
            if any(setting is not None for setting in settings[index:]):
                continue
            for key in dependents:
                value = layer.get(key.section, {}).get(key.name)
                if value is not None and value not in _OFF:
                    state = "False" if given else "left out"
                    way = (
                        f"add --set {name}=true"
                        if given
                        else f"set {name} to True to use it, or to False to let it rest"
                    )
                    raise UserError(
                        f"{key.full_name} is {shown(value)} but has no effect while {name} is "
                        f"{state}; {way}"
                    )


def merged(layers: Sequence[Tree]) -> Tree:
    """All layers' keys; later layers win."""
    tree: Tree = {}
    for layer in layers:
        for name, content in layer.items():
            tree[name] = {**tree.get(name, {}), **content}
    return tree


def without_unread(tree: Tree, table: Table) -> Tree:
    """``tree`` without the settings that only methods read which are not the chosen ones."""
    kept = {name: dict(content) for name, content in tree.items()}
    for (section, chooser), keys in table.choices.items():
        chosen = _chosen(tree, section, chooser, table)
        for key in keys:
            if chosen not in _readers(key):
                kept.get(key.section, {}).pop(key.name, None)
    return kept


def check_choices(layers: Sequence[Tree], table: Table) -> None:
    """Refuse settings that the chosen method does not read.

    Where a later layer has chosen another method (``--set MODEL.d_cond_mtd=PD`` on a file of
    ContraGAN), the settings of the earlier one rest.

    Args:
        layers: the config file's keys, then the overrides'.
        table: all keys.

    Raises:
        UserError: a layer sets such a key itself.
    """
    so_far: Tree = {}
    for layer in layers:
        so_far = merged([so_far, layer])
        for (section, chooser), keys in table.choices.items():
            chosen = _chosen(so_far, section, chooser, table)
            for key in keys:
                value = layer.get(key.section, {}).get(key.name)
                if value and value not in _OFF and chosen not in _readers(key):
                    raise UserError(
                        f"{key.full_name} is {shown(value)} but has no effect while "
                        f"{section}.{chooser} is {shown(chosen)}: only "
                        f"{' and '.join(map(repr, _readers(key)))} read it; leave it out or set "
                        "it to 'N/A'"
                    )


def _readers(key: Key) -> tuple[object, ...]:
    assert key.read_when is not None
    return key.read_when.values


def _chosen(tree: Tree, section: str, chooser: str, table: Table) -> object:
    return tree.get(section, {}).get(chooser, table.key(section, chooser).default)


def check_together(settings: Settings, table: Table) -> None:
    """Refuse values that are fine alone but not together.

    Raises:
        UserError: the first such combination found.
    """
    for key in table.keys:
        if key.needed and key.read_when is not None and key.read_when(settings):
            key.require(settings, key.read_when.described(settings))
    _check_classes(settings)
    backbone = backbone_of(settings)
    if backbone.check is not None:
        backbone.check(settings)
    _check_attention(settings)
    _check_momentum(settings)
    for method in all_methods():
        if method.check is not None and method.on(settings):
            method.check(settings)


def _check_classes(settings: Settings) -> None:
    classes = settings.DATA.num_classes
    for key in ("g_cond_mtd", "d_cond_mtd"):
        method = getattr(settings.MODEL, key)
        if method != "W/O" and classes < 2:
            raise UserError(
                f"MODEL.{key} {method!r} needs DATA.num_classes of at least 2 and it is "
                f"{classes}; use 'W/O' for data without classes"
            )


def _check_attention(settings: Settings) -> None:
    model, size = settings.MODEL, settings.DATA.img_size
    if not model.apply_attn:
        return
    if not (model.attn_g_loc or model.attn_d_loc):
        raise UserError(
            "MODEL.apply_attn is True but MODEL.attn_g_loc and MODEL.attn_d_loc name no block; "
            "give at least one, for example attn_g_loc: [2]"
        )
    last = backbone_of(settings).blocks(size)
    for key, blocks in zip(("attn_g_loc", "attn_d_loc"), last, strict=True):
        locations = getattr(model, key)
        if any(location > blocks for location in locations):
            raise UserError(
                f"MODEL.{key} is {list(locations)}; at DATA.img_size {size} blocks are numbered "
                f"from 1 to {blocks}"
            )


def _check_momentum(settings: Settings) -> None:
    optimization = settings.OPTIMIZATION
    if optimization.type_ == "SGD" and optimization.nesterov and not optimization.momentum:
        raise UserError(
            "OPTIMIZATION.nesterov needs OPTIMIZATION.momentum above 0; it is "
            f"{optimization.momentum}"
        )
