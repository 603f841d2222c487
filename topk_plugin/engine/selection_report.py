"""What an instance selection kept and dropped, as a file for programs and pictures for people."""

import hashlib
from pathlib import Path

import torch
from torch import Tensor

from topk_plugin.base.files import write_json
from topk_plugin.engine.data.images import ImageSet
from topk_plugin.engine.methods.instance_selection import Selection
from topk_plugin.engine.sample_grid import MOST_ROWS, save_grid

SHOWN = 8
"""Images of each class on each side of a picture."""


def kept_counts(images: ImageSet, selection: Selection) -> dict[str, tuple[int, int]]:
    """Names of the classes that have images -> how many were kept, of how many."""
    classes = len(images.class_names)
    kept = images.labels[selection.kept].bincount(minlength=classes).tolist()
    whole = images.labels.bincount(minlength=classes).tolist()
    counts = zip(images.class_names, kept, whole, strict=True)
    return {name: (chosen, of) for name, chosen, of in counts if of}


def write_report(
    folder: Path, images: ImageSet, selection: Selection, *, keep: float, density: str
) -> None:
    """Write ``selection.json`` and the pictures ``classes_FIRST-LAST.png``.

    The file holds the hash of the data, the indices of the images that were kept, and the density
    of every image. A picture has a row a class, ten classes at most: the densest images, a gap, and
    the least dense ones, which are dropped first, the least dense one outermost.

    Raises:
        UserError: a file can't be written.
    """
    kept = selection.kept.tolist()
    report = {
        "data": images.facts(),
        "keep": keep,
        "density": density,
        "extractor": selection.extractor,
        "classes": {
            name: {"kept": chosen, "images": of}
            for name, (chosen, of) in kept_counts(images, selection).items()
        },
        "kept_sha256": hashlib.sha256(repr(kept).encode()).hexdigest(),
        "kept": kept,
        "scores": selection.scores.tolist(),
    }
    write_json(folder / "selection.json", report, indent=None)
    present = images.labels.unique()
    for labels in present.split(MOST_ROWS):
        rows = [_row(images, selection.scores, int(label)) for label in labels]
        name = f"classes_{int(labels[0])}-{int(labels[-1])}.png"
        save_grid(folder / name, torch.cat(rows), columns=2 * SHOWN + 1)


def _row(images: ImageSet, scores: Tensor, label: int) -> Tensor:
    """Images [2 * SHOWN + 1, 3, S, S] of a class; white where there are none."""
    members = torch.nonzero(images.labels == label)[:, 0]
    order = members[scores[members].sort(descending=True, stable=True).indices]
    row = torch.full((2 * SHOWN + 1, *images.images.shape[1:]), 255, dtype=torch.uint8)
    best = order[:SHOWN]
    worst = order[len(best) :][-SHOWN:]  # no image stands on both sides
    row[: len(best)] = images.images[best]
    if len(worst):
        row[-len(worst) :] = images.images[worst]
    return row
