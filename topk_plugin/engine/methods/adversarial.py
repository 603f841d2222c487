"""Adversarial losses on the critic's logits, under StudioGAN's names.

hinge: Lim & Ye 2017 (arXiv 1705.02894); logistic, the same as vanilla: the non-saturating loss of
Goodfellow et al. 2014 (arXiv 1406.2661); least_square: Mao et al. 2017 (arXiv 1611.04076);
wasserstein: Arjovsky et al. 2017 (arXiv 1701.07875). A higher logit means "more real" in all of
them. A critic with several logits a sample gives a list of tensors; their losses are added up.
"""

from collections.abc import Callable, Iterator
from typing import Any, Final

import torch.nn.functional as F
from torch import Tensor

from topk_plugin.engine.keys.key import Key, When
from topk_plugin.engine.keys.rules import OneOf
from topk_plugin.engine.methods.method import CriticStep, GeneratorStep, Method, Term


class AdversarialLoss(Term):
    """The first term of both losses.

    Args:
        of_critic: real logits [N] and fake logits [M] to a scalar.
        of_generator: fake logits [M] to a scalar.
    """

    def __init__(
        self,
        of_critic: Callable[[Tensor, Tensor], Tensor],
        of_generator: Callable[[Tensor], Tensor],
    ) -> None:
        self.of_critic = of_critic
        self.of_generator = of_generator

    def critic_terms(self, step: CriticStep) -> Iterator[Tensor]:
        pairs = zip(_listed(step.real_logits), _listed(step.fake_logits), strict=True)
        yield _sum([self.of_critic(real, fake) for real, fake in pairs])

    def generator_terms(self, step: GeneratorStep) -> Iterator[Tensor]:
        yield _sum([self.of_generator(logits) for logits in _listed(step.logits)])


def _listed(logits: Any) -> list[Tensor]:
    return list(logits) if isinstance(logits, list | tuple) else [logits]


def _sum(values: list[Tensor]) -> Tensor:
    return sum(values[1:], values[0])


def hinge_critic(real_logits: Tensor, fake_logits: Tensor) -> Tensor:
    """max(1 - real, 0) + max(1 + fake, 0), averaged."""
    return F.relu(1 - real_logits).mean() + F.relu(1 + fake_logits).mean()


def logistic_critic(real_logits: Tensor, fake_logits: Tensor) -> Tensor:
    """Cross-entropy with the targets 1 and 0."""
    return F.softplus(-real_logits).mean() + F.softplus(fake_logits).mean()


def least_square_critic(real_logits: Tensor, fake_logits: Tensor) -> Tensor:
    """Half the squared distances from the targets 1 and 0."""
    return 0.5 * (real_logits - 1).square().mean() + 0.5 * fake_logits.square().mean()


def wasserstein_critic(real_logits: Tensor, fake_logits: Tensor) -> Tensor:
    """The mean of fake logits less that of real ones."""
    return fake_logits.mean() - real_logits.mean()


def negative_mean_generator(fake_logits: Tensor) -> Tensor:
    """The generator's loss of hinge and wasserstein."""
    return -fake_logits.mean()


def logistic_generator(fake_logits: Tensor) -> Tensor:
    """The non-saturating loss."""
    return F.softplus(-fake_logits).mean()


def least_square_generator(fake_logits: Tensor) -> Tensor:
    """Half the squared distance from the target 1."""
    return 0.5 * (fake_logits - 1).square().mean()


ADVERSARIAL_CHOICE: Final = Key("LOSS", "adv_loss", "vanilla", OneOf((), studiogan=("MH",)))


def adversarial_method(
    name: str,
    of_critic: Callable[[Tensor, Tensor], Tensor],
    of_generator: Callable[[Tensor], Tensor],
) -> Method:
    """The method of one value of LOSS.adv_loss; see :class:`AdversarialLoss`."""
    loss = _LOSSES[name] = AdversarialLoss(of_critic, of_generator)
    return Method(
        name,
        on=When("LOSS", "adv_loss", (name,)),
        term=lambda settings: loss,
        keys=(ADVERSARIAL_CHOICE,),
    )


_LOSSES: Final[dict[str, AdversarialLoss]] = {}


def has_logit_losses(name: str) -> bool:
    """Whether a value of LOSS.adv_loss is made of losses of single logits."""
    return name in _LOSSES


def adversarial_loss(name: str) -> AdversarialLoss:
    """The loss of a value of LOSS.adv_loss."""
    return _LOSSES[name]


ADVERSARIAL_LOSSES: Final = (
    adversarial_method("vanilla", logistic_critic, logistic_generator),
    adversarial_method("logistic", logistic_critic, logistic_generator),
    adversarial_method("least_square", least_square_critic, least_square_generator),
    adversarial_method("hinge", hinge_critic, negative_mean_generator),
    adversarial_method("wasserstein", wasserstein_critic, negative_mean_generator),
)
