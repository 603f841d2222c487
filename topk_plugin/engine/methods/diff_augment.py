"""DiffAugment (Zhao et al. 2020, arXiv 2006.10738): colour, translation and cutout."""

import torch
from torch import Tensor

from topk_plugin.engine.draws import integers, uniform

MAX_SHIFT_FRACTION = 1 / 8
CUTOUT_FRACTION = 1 / 2


def diff_augment(
    images: Tensor, generator: torch.Generator, cutout: float = CUTOUT_FRACTION
) -> Tensor:
    """Change colours, shift and cut a square out, each image by random numbers of its own.

    In this order, uniform and independent for each image: brightness by -0.5 to 0.5; saturation
    by a factor of 0 to 2; contrast by a factor of 0.5 to 1.5; a shift by whole pixels in each
    direction, up to 1/8 of height and width (rounded), what comes in being 0; and a rectangle of
    ``cutout`` times height and width (rounded), centred anywhere in the image, becomes 0.
    Differentiable in ``images``. Random numbers are drawn in StudioGAN's order and shapes.

    Args:
        images: [N, C, H, W] in [-1, 1], floating point; half precisions are raised to float32.
        generator: source of the random numbers; best on the images' device.
        cutout: share of height and width that is cut out, a half in StudioGAN.

    Returns:
        The augmented images, same shape; colours may leave [-1, 1].
    """
    images = images.to(torch.promote_types(images.dtype, torch.float32))
    images = images + (_uniform(images, generator) - 0.5)
    grey = images.mean(1, keepdim=True)
    images = (images - grey) * (_uniform(images, generator) * 2) + grey
    mean = images.mean((1, 2, 3), keepdim=True)
    images = (images - mean) * (_uniform(images, generator) + 0.5) + mean
    return _cut_out(_shift(images, generator), generator, cutout)


def _uniform(images: Tensor, generator: torch.Generator) -> Tensor:
    """[N, 1, 1, 1], uniform in [0, 1)."""
    return uniform((len(images), 1, 1, 1), generator, images.dtype).to(images.device)


def _shift(images: Tensor, generator: torch.Generator) -> Tensor:
    """Move each image; the pixels that come in are 0."""
    height, width = images.shape[2:]
    rows, columns = (_shifted_positions(images, size, generator) for size in (height, width))
    sources = rows.clamp(0, height - 1)[:, :, None] * width + columns.clamp(0, width - 1)[:, None]
    flat = images.flatten(2)
    moved = flat.gather(2, sources.flatten(1)[:, None].expand_as(flat)).view_as(images)
    inside = _in_range(rows, height)[:, :, None] & _in_range(columns, width)[:, None]
    return moved.masked_fill(~inside[:, None], 0)


def _shifted_positions(images: Tensor, size: int, generator: torch.Generator) -> Tensor:
    """For each image, the source position [N, size] of each target position, also outside."""
    reach = _round_half_up(size * MAX_SHIFT_FRACTION)
    shifts = integers(-reach, reach + 1, (len(images), 1), generator)
    return torch.arange(size, device=images.device) + shifts.to(images.device)


def _cut_out(images: Tensor, generator: torch.Generator, share: float) -> Tensor:
    """Set a rectangle of each image to 0."""
    height, width = images.shape[2:]
    rows, columns = (_cut_positions(images, size, generator, share) for size in (height, width))
    return images.masked_fill((rows[:, :, None] & columns[:, None])[:, None], 0)


def _cut_positions(images: Tensor, size: int, generator: torch.Generator, share: float) -> Tensor:
    """For each image, which of ``size`` positions are cut: bool [N, size]."""
    length = _round_half_up(size * share)
    # An even length has its centre between two pixels, and so one more place to be.
    centres = size + 1 - length % 2
    centre = integers(0, centres, (len(images), 1), generator)
    first = centre.to(images.device) - length // 2
    positions = torch.arange(size, device=images.device)
    return (positions >= first) & (positions < first + length)


def _in_range(positions: Tensor, size: int) -> Tensor:
    return (positions >= 0) & (positions < size)


def _round_half_up(value: float) -> int:
    """The nearest whole number, of a value that is not negative."""
    return int(value + 0.5)
