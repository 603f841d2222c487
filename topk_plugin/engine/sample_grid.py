"""Pictures of generated images: one row a class, the same latents every time."""

import math
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor, nn
from torchvision.utils import make_grid

from topk_plugin.base.files import atomic_write
from topk_plugin.engine.config.config import Config
from topk_plugin.engine.divergence import NotFinite
from topk_plugin.engine.latents import LatentSource
from topk_plugin.gate import ranks

MOST_ROWS = 10


def to_uint8(images: Tensor) -> Tensor:
    """[-1, 1] -> 0..255, rounded to the nearest as StudioGAN does; uint8 of the same shape.

    The images must be finite: what NaN becomes is undefined.
    """
    return images.float().add(1).mul(127.5).add(0.5).clamp(0, 255).to(torch.uint8)


@torch.no_grad()
def generate(sampler: nn.Module, latents: Tensor, labels: Tensor, *, batch_size: int) -> Tensor:
    """Run a generator in batches; uint8 [N, 3, S, S] on the CPU.

    Several processes share the batches out, and all get all images.

    Args:
        sampler: a generator in evaluation mode.
        latents: [N, z_dim].
        labels: int64 [N].
        batch_size: images at once.

    Raises:
        NotFinite: an image has a pixel that is NaN or infinite.
    """
    own = ranks.own_block(len(latents), batch_size)
    parts = []
    finite = True
    # a process without a batch of its own still has to know what an image is
    for start in range(own.start, max(own.stop, own.start + 1), batch_size):
        rows = slice(min(start, len(latents) - 1), min(start + batch_size, len(latents)))
        images = sampler(latents[rows], labels[rows])
        finite = bool(images.isfinite().all())
        if not finite:
            break
        parts.append(to_uint8(images).cpu())
    if ranks.any_rank(not finite):
        raise NotFinite(
            "the generator's images are not finite numbers: its training has diverged; give an "
            "earlier checkpoint, or train again with a lower learning rate"
        )
    made = torch.cat(parts)[: own.stop - own.start]
    return ranks.gather_blocks(made, len(latents), batch_size)


def class_grid(
    config: Config, *, seed: int, device: torch.device, columns: int = 10
) -> tuple[Tensor, Tensor]:
    """Latents and labels of a grid: a row a class (at most 10 rows), the same latents in each run.

    Returns:
        latents [rows * columns, z_dim] and labels int64 [rows * columns], row by row.
    """
    classes = config.DATA.num_classes
    rows = min(classes, MOST_ROWS) if classes > 1 else columns
    source = LatentSource(config, seed=seed, device=device)
    drawn = torch.linspace(0, classes - 1, rows, device=device).round().long()
    return source.latents(rows * columns), drawn.repeat_interleave(columns)


def save_grid(path: Path, images: Tensor, *, columns: int = 10) -> None:
    """Write uint8 images [N, 3, S, S] as one PNG, ``columns`` a row, atomically.

    Raises:
        UserError: the file can't be written.
    """
    # small images are enlarged by whole factors, so that a person can look at them
    factor = max(1, math.floor(64 / images.shape[-1]))
    large = images.repeat_interleave(factor, dim=2).repeat_interleave(factor, dim=3)
    save_png(path, make_grid(large, nrow=columns, padding=2, pad_value=255))


def save_png(path: Path, image: Tensor) -> None:
    """Write one uint8 image [3, H, W] as PNG, atomically.

    Raises:
        UserError: the file can't be written.
    """
    picture = Image.fromarray(image.permute(1, 2, 0).contiguous().numpy())
    with atomic_write(path) as temporary:
        picture.save(temporary, format="PNG")
