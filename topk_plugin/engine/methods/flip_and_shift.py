"""The augmentation of consistency regularization: random flip and small shift."""

import torch
from torch import Tensor

from topk_plugin.engine.draws import integers, uniform

FLIP_PROBABILITY = 0.5
MAX_SHIFT_FRACTION = 1 / 8


def flip_and_shift(images: Tensor, generator: torch.Generator) -> Tensor:
    """Flip each image left-right with probability 1/2, then shift it by whole pixels.

    Shifts are uniform in each direction, up to 1/8 of the height and width (rounded down); the
    border is filled by reflection. This is the T of ICR-GAN (arXiv 2002.04724, section 4.1).
    Pixels are copied, never mixed, so the result is exact; it is differentiable in ``images``.

    Args:
        images: [N, C, H, W], floating point.
        generator: source of the random numbers; best on the images' device.

    Returns:
        The augmented images, same shape and dtype.
    """
    count, _, height, width = images.shape
    flips = uniform((count, 1), generator) < FLIP_PROBABILITY
    rows = _shifted_positions(count, height, generator)
    columns = _shifted_positions(count, width, generator)
    columns = torch.where(flips, width - 1 - columns, columns)
    sources = (rows[:, :, None] * width + columns[:, None, :]).flatten(1).to(images.device)
    flat = images.flatten(2)
    return flat.gather(2, sources[:, None].expand_as(flat)).view_as(images)


def _shifted_positions(count: int, size: int, generator: torch.Generator) -> Tensor:
    """For each of ``count`` images, the source position [count, size] of each target position."""
    reach = int(size * MAX_SHIFT_FRACTION)
    shifts = integers(-reach, reach + 1, (count, 1), generator)
    positions = (torch.arange(size, device=generator.device) + shifts).abs()
    return (size - 1) - (size - 1 - positions).abs()
