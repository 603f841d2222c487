"""From decoded pictures of any size and mode to uint8 [3, S, S]."""

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from tqdm import tqdm

# Images a worker takes at a time: the cost of handing out work vanishes, the bar still moves.
_PORTION = 64
# Progress of anything quicker than this is not worth a line on the screen.
_SECONDS_BEFORE_BAR = 2.0


def fit(
    image: Image.Image, img_size: int, resample: Image.Resampling = Image.Resampling.LANCZOS
) -> np.ndarray:
    """Centre-crop the long edge and resize with antialiasing.

    The crop is rounded as torchvision's ``center_crop`` does, so that a folder prepared for
    StudioGAN gives the same pixels here. An image that has the right size stays as it is.

    Args:
        image: RGB or gray (mode L).
        img_size: the edge of the result in pixels.
        resample: the filter.

    Returns:
        uint8 [3, img_size, img_size].
    """
    image = image.convert("RGB")
    width, height = image.size
    edge = min(width, height)
    if width != height:
        left, top = round((width - edge) / 2), round((height - edge) / 2)
        image = image.crop((left, top, left + edge, top + edge))
    if edge != img_size:
        image = image.resize((img_size, img_size), resample)
    return np.asarray(image).transpose(2, 0, 1)


def fit_arrays(
    pixels: np.ndarray,
    img_size: int,
    resample: Image.Resampling = Image.Resampling.LANCZOS,
) -> Tensor:
    """``fit`` for a whole stack of gray (uint8 [N, H, W]) or RGB (uint8 [N, H, W, 3]) images.

    Returns:
        uint8 [N, 3, img_size, img_size], contiguous.
    """
    if pixels.shape[1:3] != (img_size, img_size):
        return fit_many(
            len(pixels), img_size, lambda i: fit(Image.fromarray(pixels[i]), img_size, resample)
        )
    stack = torch.from_numpy(np.ascontiguousarray(pixels))
    channels_first = stack.permute(0, 3, 1, 2) if stack.ndim == 4 else stack[:, None]
    return channels_first.expand(-1, 3, -1, -1).contiguous()


def fit_many(count: int, img_size: int, make_image: Callable[[int], np.ndarray]) -> Tensor:
    """Fill uint8 [count, 3, img_size, img_size] with ``make_image(0..count - 1)``."""
    images = torch.empty(count, 3, img_size, img_size, dtype=torch.uint8)
    fill_rows(images, range(count), make_image)
    return images


def fill_rows(images: Tensor, rows: Sequence[int], make_image: Callable[[int], np.ndarray]) -> None:
    """Put ``make_image(row)`` into ``images[row]``, for each of ``rows``.

    ``make_image`` runs in several threads (Pillow decodes and resizes outside the interpreter
    lock); its first exception ends the work and is raised here. A progress bar appears when it
    takes more than two seconds on a terminal.
    """
    pixels = images.numpy()

    def fill(start: int) -> int:
        portion = rows[start : start + _PORTION]
        for row in portion:
            pixels[row] = make_image(row)
        return len(portion)

    bar = tqdm(
        total=len(rows),
        desc="reading images",
        unit="image",
        delay=_SECONDS_BEFORE_BAR,
        leave=False,
        disable=None,
    )
    with bar, ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        for done in pool.map(fill, range(0, len(rows), _PORTION)):
            bar.update(done)
