"""Penalties on the gradient of the critic's score with respect to images."""

from collections.abc import Callable, Iterator
from typing import Final

import torch
from torch import Tensor

from topk_plugin.base.errors import UserError
from topk_plugin.engine.draws import uniform
from topk_plugin.engine.keys.key import Key, When, switch
from topk_plugin.engine.keys.rules import Number, OneOf
from topk_plugin.engine.keys.settings import Settings
from topk_plugin.engine.methods.method import CriticStep, Gan, Method, Needs, Term


def gradient_penalty(
    score: Callable[[Tensor], Tensor], real: Tensor, fake: Tensor, generator: torch.Generator
) -> Tensor:
    """WGAN-GP's penalty (Gulrajani et al. 2017, arXiv 1704.00028, eq. 3), without its weight.

    The mean of (length of the gradient - 1)^2 at points drawn uniformly on the lines between each
    real image and the fake of its row; one draw a row.

    Args:
        score: images [N, C, H, W] to scores [N], differentiable twice.
        real: [N, C, H, W].
        fake: likewise.
        generator: source of the random numbers; best on the images' device.

    Returns:
        A scalar that can be differentiated with respect to the critic's weights.
    """
    share = uniform((len(real), 1, 1, 1), generator).to(real.device)
    between = (share * real + (1 - share) * fake).detach().requires_grad_()
    gradient = _gradient(score(between), between)
    return (gradient.flatten(1).norm(dim=1) - 1).square().mean()


def r1_penalty(scores: Tensor, real: Tensor) -> Tensor:
    """R1 (Mescheder et al. 2018, arXiv 1801.04406, eq. 9), without its weight.

    Half the squared length of the gradient at real images, averaged.

    Args:
        scores: the critic's scores [N] of ``real``, row by row, differentiable twice.
        real: [N, C, H, W]; required a gradient before the critic was called.

    Returns:
        A scalar that can be differentiated with respect to the critic's weights.
    """
    return 0.5 * _gradient(scores, real).square().flatten(1).sum(1).mean()


def _gradient(scores: Tensor, images: Tensor) -> Tensor:
    (gradient,) = torch.autograd.grad(scores.sum(), images, create_graph=True)
    return gradient


class GradientPenalty(Term):
    """LOSS.gp_lambda times WGAN-GP's penalty."""

    needs = Needs(second_derivatives=True)

    def __init__(self, settings: Settings) -> None:
        self._weight: float = settings.LOSS.gp_lambda

    def setup(self, gan: Gan) -> None:
        self._random = gan.random

    def critic_terms(self, step: CriticStep) -> Iterator[Tensor]:
        def score(images: Tensor) -> Tensor:
            logits: Tensor = step.criticise(images, step.real.labels)["adv_output"]
            return logits

        penalty = gradient_penalty(score, step.real.images, step.fakes.images, self._random)
        yield self._weight * penalty


class R1Penalty(Term):
    """LOSS.r1_lambda times R1."""

    needs = Needs(second_derivatives=True, gradient_at_real=True)

    def __init__(self, settings: Settings) -> None:
        self._weight: float = settings.LOSS.r1_lambda

    def critic_terms(self, step: CriticStep) -> Iterator[Tensor]:
        yield self._weight * r1_penalty(step.real_out["adv_output"], step.real.images)


class R2Penalty(Term):
    """LOSS.r2_lambda times half the squared gradient at fakes (Mescheder et al. 2018, eq. 10)."""

    needs = Needs(second_derivatives=True, gradient_at_fakes=True)

    def __init__(self, settings: Settings) -> None:
        self._weight: float = settings.LOSS.r2_lambda

    def critic_terms(self, step: CriticStep) -> Iterator[Tensor]:
        yield self._weight * r1_penalty(step.fake_out["adv_output"], step.fakes.images)


def _check_r1(settings: Settings) -> None:
    if settings.LOSS.r1_place == "outside_loop":
        raise UserError(
            "LOSS.r1_place is 'outside_loop', StudioGAN's update of its own for StyleGAN "
            "backbones; with others it penalises in every update of the critic, so use "
            "'inside_loop' or leave r1_place out"
        )


GRADIENT_PENALTY: Final = Method(
    "WGAN-GP",
    on=When("LOSS", "apply_gp"),
    term=GradientPenalty,
    keys=(
        switch("LOSS", "apply_gp"),
        Key("LOSS", "gp_lambda", None, Number(at_least=0.0), needed=True),
    ),
)
R1: Final = Method(
    "R1",
    on=When("LOSS", "apply_r1_reg"),
    term=R1Penalty,
    keys=(
        switch("LOSS", "apply_r1_reg"),
        Key("LOSS", "r1_place", None, OneOf(("inside_loop", "outside_loop"))),
        Key("LOSS", "r1_lambda", None, Number(at_least=0.0), needed=True),
    ),
    check=_check_r1,
)
R2: Final = Method(
    "R2",
    on=When("LOSS", "apply_r2_reg"),
    term=R2Penalty,
    keys=(
        switch("LOSS", "apply_r2_reg", ours=True),
        Key("LOSS", "r2_lambda", None, Number(at_least=0.0), ours=True, needed=True),
    ),
)
