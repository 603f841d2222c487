"""StudioGAN's HDF5 files: ``imgs`` and ``labels``."""

from pathlib import Path
from typing import Any

import numpy as np
import torch

from topk_plugin.base.errors import UserError
from topk_plugin.engine.data.images import ImageSet
from topk_plugin.engine.data.pixels import fit_arrays

# StudioGAN writes chunks of 500 images; whole chunks are read once.
_IMAGES_AT_A_TIME = 2000
# More than any labelled image set has: a wilder label, with nothing to check it by, is damage.
_MAX_CLASSES = 100_000


def load_hdf5(
    path: Path, *, name: str, img_size: int, split: str, num_classes: int | None
) -> ImageSet:
    """Load ``imgs`` (uint8 [N, H, W, 3]) and ``labels`` (integers [N]) as uint8 [N, 3, S, S].

    The file has no class names and is of one split, by StudioGAN's convention train. Classes are
    named by their number: 0..num_classes - 1, or up to the largest label when that is None.

    Raises:
        UserError: not an HDF5 file, a data set is missing, has another dtype or shape or is empty,
            a label is out of range, or another split than train is asked for.
    """
    if split != "train":
        raise UserError(
            f"{path} has no {split} split: an HDF5 file holds one split, to be loaded as train; "
            f"give the file of the {split} images"
        )
    # Imported here because only runs on HDF5 files need it.
    import h5py

    try:
        with h5py.File(path, "r") as file:
            imgs = _dataset(file, "imgs", path)
            labels = _dataset(file, "labels", path)
            _check_layout(imgs, labels, path)
            images = _read_images(imgs, img_size)
            classes = np.asarray(labels[:], dtype=np.int64)
    # h5py reports damage with either kind, whatever was being read.
    except (OSError, RuntimeError) as error:
        raise UserError(f"{path} is not a readable HDF5 file ({error}); make it anew") from error
    smallest, largest = int(classes.min()), int(classes.max())
    allowed = min(largest + 1, _MAX_CLASSES) if num_classes is None else num_classes
    if smallest < 0 or largest >= allowed:
        wrong = smallest if smallest < 0 else largest
        raise UserError(
            f"{path} has the label {wrong}, allowed are 0..{allowed - 1}; mend the labels or set "
            f"DATA.num_classes"
        )
    return ImageSet(
        images=images,
        labels=torch.from_numpy(classes),
        class_names=tuple(str(label) for label in range(allowed)),
        name=name,
        source=f"{path}: {len(images)} images in an HDF5 file",
    )


def _dataset(file: Any, key: str, path: Path) -> Any:
    import h5py

    found = file.get(key)
    if not isinstance(found, h5py.Dataset):
        present = ", ".join(sorted(file)) or "nothing"
        raise UserError(
            f"{path} has no data set {key!r} (it holds: {present}); StudioGAN's layout is imgs "
            f"uint8 [N, H, W, 3] and labels int64 [N]"
        )
    return found


def _check_layout(imgs: Any, labels: Any, path: Path) -> None:
    if imgs.dtype != np.uint8 or len(imgs.shape) != 4 or imgs.shape[3] != 3 or 0 in imgs.shape:
        raise UserError(
            f"{path}: imgs is {imgs.dtype} {list(imgs.shape)}, it must be uint8 [N, H, W, 3] and "
            f"not empty; convert it"
        )
    if labels.dtype.kind not in "iu" or labels.shape != imgs.shape[:1]:
        raise UserError(
            f"{path}: labels is {labels.dtype} {list(labels.shape)}, it must be int64 "
            f"[{imgs.shape[0]}], one for each image; convert it"
        )


def _read_images(imgs: Any, img_size: int) -> torch.Tensor:
    images = torch.empty(len(imgs), 3, img_size, img_size, dtype=torch.uint8)
    for start in range(0, len(imgs), _IMAGES_AT_A_TIME):
        block = slice(start, start + _IMAGES_AT_A_TIME)
        images[block] = fit_arrays(imgs[block], img_size)
    return images
