"""Penalties on the gradient of the critic's score with respect to images."""

from collections.abc import Callable

import torch
from torch import Tensor


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
    share = torch.rand(len(real), 1, 1, 1, generator=generator, device=generator.device)
    share = share.to(real.device)
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
