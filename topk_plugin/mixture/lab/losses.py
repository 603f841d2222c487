"""The losses of the laboratory; each returns one number a replica."""

from typing import Literal, get_args

import torch
from torch import Tensor
from torch.nn.functional import softplus

from topk_plugin.mixture.lab.networks import (
    Parameters,
    forward,
    forward_with_hidden,
    input_gradient,
)

Loss = Literal["non-saturating", "hinge", "wgan-gp", "least-squares"]
LOSSES: tuple[str, ...] = get_args(Loss)


def critic_loss(
    parameters: Parameters, real: Tensor, fake: Tensor, mix: Tensor, loss: str, penalty: float
) -> Tensor:
    """Loss of each critic, [E].

    Args:
        parameters: the critics'.
        real, fake: [E, N, 2] points.
        mix: [E, N, 1] in [0, 1], where between real and fake the gradient penalty looks; only read
            by ``"wgan-gp"``.
        loss: ``"non-saturating"`` (Goodfellow et al. 2014), ``"hinge"`` (Lim & Ye 2017),
            ``"wgan-gp"`` (Gulrajani et al. 2017) or ``"least-squares"`` (Mao et al. 2017; fakes
            0, reals 1).
        penalty: weight of the gradient penalty.
    """
    n = real.shape[1]
    # One call: the critic treats each sample by itself.
    scores = forward(parameters, torch.cat([real, fake], dim=1)).squeeze(-1)
    on_real, on_fake = scores[:, :n], scores[:, n:]
    if loss == "non-saturating":
        return (softplus(-on_real) + softplus(on_fake)).mean(-1)
    if loss == "hinge":
        return (torch.relu(1 - on_real) + torch.relu(1 + on_fake)).mean(-1)
    if loss == "least-squares":
        return 0.5 * ((on_real - 1).square() + on_fake.square()).mean(-1)
    between = fake + mix * (real - fake)
    _, hidden = forward_with_hidden(parameters, between)
    slope = input_gradient(parameters, hidden).norm(dim=-1)
    return (on_fake - on_real).mean(-1) + penalty * (slope - 1).square().mean(-1)


def generator_loss(scores: Tensor, loss: str) -> Tensor:
    """Loss of each generator, [E], from its samples' scores [E, N]."""
    if loss == "non-saturating":
        per_sample = softplus(-scores)
    elif loss == "least-squares":
        per_sample = 0.5 * (scores - 1).square()
    else:
        per_sample = -scores
    return per_sample.mean(-1)
