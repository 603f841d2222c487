"""Consistency terms: CR (Zhang et al. 2020, arXiv 1910.12027), and ICR-GAN's bCR and zCR
(Zhao et al. 2020, arXiv 2002.04724).

CR: a real image and its augmented version shall get the same output of the critic. bCR: the same of
real and of fake images. zCR: images from a latent vector and from a nearby one shall get the same
output of the critic, and the generator makes them different.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Final

import torch.nn.functional as F
from torch import Tensor

from topk_plugin.base.errors import UserError
from topk_plugin.engine.keys.key import Key, When, switch
from topk_plugin.engine.keys.rules import Number
from topk_plugin.engine.keys.settings import Settings
from topk_plugin.engine.methods.augmentations import AUGMENTATIONS, OFF, augmentation_key
from topk_plugin.engine.methods.method import (
    CriticStep,
    Gan,
    GeneratorStep,
    Method,
    Needs,
    Term,
)


def output_consistency(
    outputs: Mapping[str, Tensor], others: Mapping[str, Tensor], compared: Sequence[str]
) -> Tensor:
    """Mean squared difference of two outputs of the critic, a scalar.

    Args:
        outputs, others: of the critic.
        compared: which of them; their differences are added up. StudioGAN compares what the
            critic's head adds to the score as well.
    """
    first, *rest = compared
    difference = F.mse_loss(outputs[first], others[first])
    for name in rest:
        difference = difference + F.mse_loss(outputs[name], others[name])
    return difference


def latent_sensitivity(images: Tensor, nearby_images: Tensor) -> Tensor:
    """Mean squared difference of images [N, 3, H, W] from nearby latent vectors, a scalar."""
    return F.mse_loss(images, nearby_images)


class Consistency(Term):
    """CR: LOSS.cr_lambda times the consistency of real images."""

    def __init__(self, settings: Settings) -> None:
        self._weight: float = settings.LOSS.cr_lambda
        self._augment = AUGMENTATIONS[settings.AUG.cr_aug_type]

    def setup(self, gan: Gan) -> None:
        self._random, self._compared = gan.random, gan.head.compared

    def critic_terms(self, step: CriticStep) -> Iterator[Tensor]:
        other = step.criticise(self._augment(step.real.images, self._random), step.real.labels)
        yield self._weight * output_consistency(step.real_out, other, self._compared)


class BalancedConsistency(Term):
    """bCR: the consistency of real and of fake images, each with a weight."""

    def __init__(self, settings: Settings) -> None:
        self._weights: tuple[float, float] = (settings.LOSS.real_lambda, settings.LOSS.fake_lambda)
        self._augment = AUGMENTATIONS[settings.AUG.bcr_aug_type]

    def setup(self, gan: Gan) -> None:
        self._random, self._compared = gan.random, gan.head.compared

    def critic_terms(self, step: CriticStep) -> Iterator[Tensor]:
        # both augmented before the critic is called, as in StudioGAN
        real = self._augment(step.real.images, self._random)
        fake = self._augment(step.fakes.images, self._random)
        real_other = step.criticise(real, step.real.labels)
        fake_other = step.criticise(fake, step.fakes.labels)
        yield self._weights[0] * output_consistency(step.real_out, real_other, self._compared)
        yield self._weights[1] * output_consistency(step.fake_out, fake_other, self._compared)


class LatentConsistency(Term):
    """zCR: the critic's consistency of nearby fakes, and the generator's sensitivity."""

    def __init__(self, settings: Settings) -> None:
        self.needs = Needs(nearby=settings.LOSS.radius)
        self._of_critic: float = settings.LOSS.d_lambda
        self._of_generator: float = settings.LOSS.g_lambda

    def setup(self, gan: Gan) -> None:
        self._compared = gan.head.compared

    def critic_terms(self, step: CriticStep) -> Iterator[Tensor]:
        assert step.fakes.nearby is not None  # needed
        other = step.criticise(step.fakes.nearby, step.fakes.labels)
        yield self._of_critic * output_consistency(step.fake_out, other, self._compared)

    def generator_terms(self, step: GeneratorStep) -> Iterator[Tensor]:
        assert step.fakes.nearby is not None  # needed
        yield -(self._of_generator * latent_sensitivity(step.fakes.images, step.fakes.nearby))


def _weight(name: str) -> Key:
    return Key("LOSS", name, None, Number(at_least=0.0), needed=True)


def _check_cr(settings: Settings) -> None:
    if settings.AUG.cr_aug_type == OFF:
        raise UserError("LOSS.apply_cr needs AUG.cr_aug_type 'cr' or 'diffaug'; it is 'W/O'")
    for other in ("apply_bcr", "apply_zcr"):
        if getattr(settings.LOSS, other):
            raise UserError(
                f"LOSS.apply_cr and LOSS.{other} are both True, which StudioGAN refuses; use "
                "LOSS.apply_bcr, which contains the term, in place of apply_cr"
            )


def _check_bcr(settings: Settings) -> None:
    if settings.AUG.bcr_aug_type == OFF:
        raise UserError("LOSS.apply_bcr needs AUG.bcr_aug_type 'bcr' or 'diffaug'; it is 'W/O'")


CONSISTENCY: Final = Method(
    "CR",
    on=When("LOSS", "apply_cr"),
    term=Consistency,
    keys=(
        switch("LOSS", "apply_cr"),
        _weight("cr_lambda"),
        augmentation_key("cr_aug_type", "cr", "diffaug"),
    ),
    check=_check_cr,
)
BALANCED_CONSISTENCY: Final = Method(
    "bCR",
    on=When("LOSS", "apply_bcr"),
    term=BalancedConsistency,
    keys=(
        switch("LOSS", "apply_bcr"),
        _weight("real_lambda"),
        _weight("fake_lambda"),
        augmentation_key("bcr_aug_type", "bcr", "diffaug"),
    ),
    check=_check_bcr,
)
LATENT_CONSISTENCY: Final = Method(
    "zCR",
    on=When("LOSS", "apply_zcr"),
    term=LatentConsistency,
    keys=(
        switch("LOSS", "apply_zcr"),
        Key("LOSS", "radius", None, Number(above=0.0), needed=True),
        _weight("g_lambda"),
        _weight("d_lambda"),
    ),
)
