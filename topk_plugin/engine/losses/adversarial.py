"""Adversarial losses on the discriminator's logits, under StudioGAN's names.

hinge: Lim & Ye 2017 (arXiv 1705.02894); logistic, the same as vanilla: the non-saturating loss of
Goodfellow et al. 2014 (arXiv 1406.2661); least_square: Mao et al. 2017 (arXiv 1611.04076);
wasserstein: Arjovsky et al. 2017 (arXiv 1701.07875). A higher logit means "more real" in all of
them.
"""

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor

DiscriminatorLoss = Callable[[Tensor, Tensor], Tensor]
GeneratorLoss = Callable[[Tensor], Tensor]


def discriminator_loss(name: str, *, real_label: float = 1.0) -> DiscriminatorLoss:
    """The function from real logits [N] and fake logits [M] to the discriminator's scalar loss.

    Args:
        name: of the loss.
        real_label: the probability of being real that the discriminator is to give real images;
            below 1 it is one-sided label smoothing (Salimans et al. 2016, arXiv 1606.03498), which
            "vanilla" alone allows.

    Raises:
        ValueError: unknown name, or a ``real_label`` that is not allowed.
    """
    loss = _LOSSES[_known(name)][0]
    if real_label == 1:
        return loss
    if name != "vanilla" or not 0 < real_label < 1:
        raise ValueError(
            f"real_label is {real_label} for the loss {name!r}; allowed: above 0 and at most 1 "
            "with 'vanilla', 1 otherwise"
        )
    # Cross-entropy with the target t: t softplus(-x) + (1 - t) softplus(x), and
    # softplus(x) = x + softplus(-x).
    return lambda real, fake: loss(real, fake) + (1 - real_label) * real.mean()


def generator_loss(name: str) -> GeneratorLoss:
    """The function from fake logits [M] to the generator's scalar loss.

    Raises:
        ValueError: unknown name.
    """
    return _LOSSES[_known(name)][1]


def _hinge_discriminator(real_logits: Tensor, fake_logits: Tensor) -> Tensor:
    return F.relu(1 - real_logits).mean() + F.relu(1 + fake_logits).mean()


def _logistic_discriminator(real_logits: Tensor, fake_logits: Tensor) -> Tensor:
    return F.softplus(-real_logits).mean() + F.softplus(fake_logits).mean()


def _least_square_discriminator(real_logits: Tensor, fake_logits: Tensor) -> Tensor:
    return 0.5 * (real_logits - 1).square().mean() + 0.5 * fake_logits.square().mean()


def _wasserstein_discriminator(real_logits: Tensor, fake_logits: Tensor) -> Tensor:
    return fake_logits.mean() - real_logits.mean()


def _negative_mean_generator(fake_logits: Tensor) -> Tensor:
    return -fake_logits.mean()


def _logistic_generator(fake_logits: Tensor) -> Tensor:
    return F.softplus(-fake_logits).mean()


def _least_square_generator(fake_logits: Tensor) -> Tensor:
    return 0.5 * (fake_logits - 1).square().mean()


_LOSSES: dict[str, tuple[DiscriminatorLoss, GeneratorLoss]] = {
    "hinge": (_hinge_discriminator, _negative_mean_generator),
    "logistic": (_logistic_discriminator, _logistic_generator),
    "vanilla": (_logistic_discriminator, _logistic_generator),
    "least_square": (_least_square_discriminator, _least_square_generator),
    "wasserstein": (_wasserstein_discriminator, _negative_mean_generator),
}


def _known(name: str) -> str:
    if name not in _LOSSES:
        raise ValueError(f"adversarial loss is {name!r}; allowed: {', '.join(_LOSSES)}")
    return name
