"""The registry of backbones: a new one is a file and a line here."""

from collections.abc import Iterator
from typing import Final

from topk_plugin.engine.keys.settings import Settings
from topk_plugin.engine.networks.backbone import Backbone
from topk_plugin.engine.networks.deep_conv import DEEP_CONV
from topk_plugin.engine.networks.resnet import BIG_RESNET, RESNET

BUILT_IN: Final[tuple[Backbone, ...]] = (
    DEEP_CONV,
    RESNET,
    BIG_RESNET,
)

ONLY_IN_STUDIOGAN: Final = (
    *("big_resnet_deep_legacy", "big_resnet_deep_studiogan"),
    *("stylegan2", "stylegan3"),
)

_registered: list[Backbone] = []


def register(backbone: Backbone) -> Backbone:
    """Add a backbone of your own; returns it.

    Raises:
        ValueError: there is one of that name.
    """
    if backbone.name in names():
        raise ValueError(f"there is a backbone {backbone.name!r} already")
    _registered.append(backbone)
    return backbone


def unregister(backbone: Backbone) -> None:
    """Take a backbone that :func:`register` added away again."""
    _registered.remove(backbone)


def all_backbones() -> tuple[Backbone, ...]:
    """The built-in backbones and those of :func:`register`."""
    return (*BUILT_IN, *_registered)


def names() -> Iterator[str]:
    """The values of MODEL.backbone."""
    return (backbone.name for backbone in all_backbones())


def backbone_of(settings: Settings) -> Backbone:
    """The backbone that MODEL.backbone names."""
    return next(b for b in all_backbones() if b.name == settings.MODEL.backbone)
