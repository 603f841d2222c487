"""A set that is not decoded into memory is looked through once, whole, before it is used."""

from collections.abc import Sequence

import torch
from torch import Tensor
from tqdm import tqdm

from topk_plugin.engine.data.findings import Findings
from topk_plugin.engine.data.images import new_digest
from topk_plugin.engine.data.loading import PORTION, portions
from topk_plugin.engine.data.sources import PictureSource


def look_through(
    source: PictureSource, rows: Sequence[int], labels: Tensor, *, num_workers: int
) -> tuple[Findings, str]:
    """Make every picture once: what is odd, and the fingerprint that the set has in memory.

    Args:
        source: makes the pictures.
        rows: those to look at.
        labels: int64 [len(rows)].
        num_workers: processes that make them.
    """
    findings = Findings()
    size = source.img_size
    digest = new_digest(torch.Size((len(rows), 3, size, size)))
    starts = range(0, len(rows), PORTION)
    orders = (rows[start : start + PORTION] for start in starts)
    with tqdm(
        total=len(rows), desc="looking through the images", unit="image", leave=False, disable=None
    ) as bar:
        made = portions(source, orders, num_workers=num_workers)
        for start, portion in zip(starts, made, strict=True):
            digest.update(portion.pixels.numpy().data)
            for place, found in portion.odd:
                row = rows[start + place]
                if isinstance(found, str):
                    findings.damaged[row] = found
                else:
                    findings.add(row, found)
            bar.update(len(portion.pixels))
    digest.update(labels.contiguous().numpy().data)
    return findings, digest.hexdigest()
