"""DiffAugment (Zhao et al. 2020, arXiv 2006.10738): the critic sees augmented images only."""

from typing import Final

from torch import Tensor

from topk_plugin.base.errors import UserError
from topk_plugin.engine.keys.key import When, switch
from topk_plugin.engine.keys.settings import Settings
from topk_plugin.engine.methods.augmentations import AUGMENTATIONS, OFF, augmentation_key
from topk_plugin.engine.methods.method import Gan, Method, Term


class DiffAugment(Term):
    """A view of every image, real or fake, in both networks' updates."""

    def __init__(self, settings: Settings) -> None:
        self._augment = AUGMENTATIONS[settings.AUG.diffaug_type]

    def setup(self, gan: Gan) -> None:
        self._random = gan.random

    def view(self, images: Tensor) -> Tensor:
        return self._augment(images, self._random)


def _check(settings: Settings) -> None:
    if settings.AUG.diffaug_type == OFF:
        raise UserError("AUG.apply_diffaug needs AUG.diffaug_type 'cr' or 'diffaug'; it is 'W/O'")


DIFF_AUGMENT: Final = Method(
    "DiffAugment",
    on=When("AUG", "apply_diffaug"),
    term=DiffAugment,
    keys=(switch("AUG", "apply_diffaug"), augmentation_key("diffaug_type", "cr", "diffaug")),
    check=_check,
)
