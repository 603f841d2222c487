"""Training on part of the images, to see what a method does with little data.

The same images in every run: chosen once by a fixed shuffle, the same share of each class. Metrics
still compare with all images.
"""

from typing import Final

import torch
from torch import Tensor

from topk_plugin.engine.data.images import ImageSet
from topk_plugin.engine.keys.key import Key
from topk_plugin.engine.keys.rules import Number
from topk_plugin.engine.keys.settings import Settings
from topk_plugin.engine.methods.method import Method

_SEED: Final = 2020


def part_of(labels: Tensor, share: float) -> Tensor:
    """``round(share * n)`` images of each class of n, at least one; of a larger share, more.

    Args:
        labels: int64 [N].
        share: above 0 and at most 1.

    Returns:
        Their indices, int64, ascending.
    """
    shuffled = torch.randperm(len(labels), generator=torch.Generator().manual_seed(_SEED))
    chosen = []
    for label in labels.unique():
        own = shuffled[labels[shuffled] == label]
        chosen.append(own[: max(1, round(share * len(own)))])
    return torch.cat(chosen).sort().values


def _choose(images: ImageSet, settings: Settings) -> ImageSet:
    return images.subset(part_of(images.labels, settings.DATA.share))


def _notes(settings: Settings) -> list[str]:
    return [
        f"DATA.share {settings.DATA.share:g} trains on that share of each class, the same images "
        "in every run; metrics compare with all images"
    ]


LIMITED_DATA: Final = Method(
    "limited data",
    on=lambda settings: settings.DATA.share < 1,
    keys=(
        Key(
            "DATA",
            "share",
            1.0,
            Number(above=0.0, at_most=1.0),
            ours=True,
            about="share of each class to train on, at random; below 1 it is on",
        ),
    ),
    notes=_notes,
    choose_images=_choose,
)
