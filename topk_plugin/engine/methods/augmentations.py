"""Augmentations under StudioGAN's names."""

from collections.abc import Callable
from typing import Final

import torch
from torch import Tensor

from topk_plugin.engine.keys.key import Key
from topk_plugin.engine.keys.rules import OneOf
from topk_plugin.engine.methods.diff_augment import diff_augment
from topk_plugin.engine.methods.flip_and_shift import flip_and_shift

Augmentation = Callable[[Tensor, torch.Generator], Tensor]

OFF: Final = "W/O"
AUGMENTATIONS: Final[dict[str, Augmentation]] = {
    "cr": flip_and_shift,
    "bcr": flip_and_shift,  # one augmentation in StudioGAN too
    "diffaug": diff_augment,
}

_ONLY_IN_STUDIOGAN: Final = (
    *("simclr_basic", "simclr_hq", "simclr_hq_cutout", "byol", "blit", "geom", "color", "filter"),
    *("noise", "cutout", "bg", "bgc", "bgcf", "bgcfn", "bgcfnc"),
)


def augmentation_key(name: str, *choices: str) -> Key:
    """The key of section AUG that names an augmentation, one of ``choices``."""
    return Key("AUG", name, OFF, OneOf((OFF, *choices), studiogan=_ONLY_IN_STUDIOGAN))
