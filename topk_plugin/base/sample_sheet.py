"""Generated images in rows on one sheet, as a PNG file."""

import math
from pathlib import Path

import torch
from torch import Tensor

from topk_plugin.base.files import atomic_write

GAP = 2  # pixels around each image


def write_sheet(path: Path, images: Tensor, columns: int) -> None:
    """Write a PNG, small images enlarged by a whole factor.

    Args:
        path: of the file; its folder is made.
        images: [N, C, H, W] in [-1, 1]; C = 1 is grey, of more than 3 the first three are shown.
        columns: images a row.

    Raises:
        ValueError: images are of another shape, or columns is under 1.
        UserError: the file can't be written.
    """
    if images.dim() != 4 or 0 in images.shape or images.shape[1] == 2:
        raise ValueError(
            f"samples are images [N, 1 or 3 channels, height, width], not {list(images.shape)}"
        )
    if columns < 1:
        raise ValueError(f"columns must be 1 or more, not {columns}")
    from PIL import Image  # only here: importing the package brings torch alone

    with atomic_write(path) as temporary:
        pixels = sheet(images, columns).permute(1, 2, 0).contiguous().numpy()
        Image.fromarray(pixels).save(temporary, format="PNG")


def sheet(images: Tensor, columns: int) -> Tensor:
    """[N, C, H, W] in [-1, 1] -> uint8 [3, rows * height, columns * width] on the CPU."""
    pixels = images.detach().float().nan_to_num(-1.0).add(1).mul(127.5).add(0.5)
    small = pixels.clamp(0, 255).to(torch.uint8).cpu()
    small = small.expand(-1, 3, -1, -1) if small.shape[1] == 1 else small[:, :3]
    factor = max(1, math.floor(64 / small.shape[-1]))
    large = small.repeat_interleave(factor, dim=2).repeat_interleave(factor, dim=3)
    framed = torch.nn.functional.pad(large, (0, GAP, 0, GAP), value=255)
    columns = min(columns, len(framed))
    missing = -len(framed) % columns
    empty = torch.full((missing, *framed.shape[1:]), 255, dtype=torch.uint8)
    rows = torch.cat([framed, empty]).unflatten(0, (-1, columns))  # [rows, columns, 3, H, W]
    whole = rows.permute(2, 0, 3, 1, 4).flatten(3, 4).flatten(1, 2)
    return torch.nn.functional.pad(whole, (GAP, 0, GAP, 0), value=255)
