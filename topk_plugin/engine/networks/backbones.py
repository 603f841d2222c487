"""The registry of backbones: a new one is a file and a line here."""

from typing import Final

from topk_plugin.engine.keys.settings import Settings
from topk_plugin.engine.networks.backbone import Backbone
from topk_plugin.engine.networks.deep_conv import DEEP_CONV
from topk_plugin.engine.networks.resnet import BIG_RESNET, RESNET

BACKBONES: Final[tuple[Backbone, ...]] = (
    DEEP_CONV,
    RESNET,
    BIG_RESNET,
)

ONLY_IN_STUDIOGAN: Final = (
    *("big_resnet_deep_legacy", "big_resnet_deep_studiogan"),
    *("stylegan2", "stylegan3"),
)


def backbone_of(settings: Settings) -> Backbone:
    """The backbone that MODEL.backbone names."""
    return next(b for b in BACKBONES if b.name == settings.MODEL.backbone)
