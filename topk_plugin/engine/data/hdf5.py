"""StudioGAN's HDF5 files: ``imgs`` and ``labels``."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from topk_plugin.base.errors import UserError
from topk_plugin.engine.data.class_folders import some
from topk_plugin.engine.data.images import ImageSet
from topk_plugin.engine.data.memory import must_stream
from topk_plugin.engine.data.picture import Picture, UnreadableImage
from topk_plugin.engine.data.pixels import fit, fit_arrays
from topk_plugin.engine.data.printable_paths import printable
from topk_plugin.engine.data.reading import PLAINLY, Reading
from topk_plugin.engine.data.set_cache import SetCache
from topk_plugin.engine.data.stored import StoredImages
from topk_plugin.engine.data.survey import look_through

# StudioGAN writes chunks of 500 images; whole chunks are read once.
_IMAGES_AT_A_TIME = 2000
# More than any labelled image set has: a wilder label, with nothing to check it by, is damage.
_MAX_CLASSES = 100_000
# deflate, HDF5's strongest usual compression, can't shrink anything further.
_MOST_COMPRESSION = 1100


def load_hdf5(
    path: Path,
    *,
    name: str,
    img_size: int,
    split: str,
    num_classes: int | None,
    reading: Reading = PLAINLY,
) -> ImageSet:
    """Load ``imgs`` (uint8 [N, H, W, 3]) and ``labels`` (integers [N]) as uint8 [N, 3, S, S].

    The file has no class names and holds one split, whichever is asked for. Classes are named by
    their number: 0..num_classes - 1, or up to the largest label when that is None. A held-out
    split may lack images of a class.

    Raises:
        UserError: not an HDF5 file, a data set is missing, lies in another file, has another dtype
            or shape, is empty or declares more than the file can hold; a label is out of range; a
            class of the training split has no image.
    """
    with _reading(path) as file:
        imgs, labels = file_contents(file, path)
        count = len(imgs)
        stream = must_stream(count, img_size, reading)
        classes = np.asarray(labels[:], dtype=np.int64)
        class_names = _class_names(classes, num_classes, path, split)
        images = None if stream else _read_images(imgs, img_size)
    labels = torch.from_numpy(classes)
    return ImageSet(
        images=_leave_on_disk(path, img_size, labels, reading) if images is None else images,
        labels=labels,
        class_names=class_names,
        name=name,
        source=f"{printable(path)}: {count} images in an HDF5 file",
    )


@contextmanager
def _reading(path: Path) -> Iterator[Any]:
    # Imported here because only runs on HDF5 files need it.
    import h5py

    try:
        with h5py.File(path, "r") as file:
            yield file
    # h5py reports damage with any of these kinds, whatever was being read.
    except (OSError, RuntimeError, KeyError, ValueError, TypeError) as error:
        raise UserError(
            f"{printable(path)} is not a readable HDF5 file ({error}); make it anew"
        ) from error


def file_contents(file: Any, path: Path) -> tuple[Any, Any]:
    """The data sets ``imgs`` and ``labels`` of an open file, their layout checked.

    Raises:
        UserError: as in :func:`load_hdf5`.
    """
    imgs, labels = _dataset(file, "imgs", path), _dataset(file, "labels", path)
    if imgs.dtype != np.uint8 or len(imgs.shape) != 4 or imgs.shape[3] != 3 or 0 in imgs.shape:
        raise UserError(
            f"{printable(path)}: imgs is {imgs.dtype} {list(imgs.shape)}, it must be uint8 "
            f"[N, H, W, 3] and not empty; convert it"
        )
    if labels.dtype.kind not in "iu" or labels.shape != imgs.shape[:1]:
        raise UserError(
            f"{printable(path)}: labels is {labels.dtype} {list(labels.shape)}, it must be int64 "
            f"[{imgs.shape[0]}], one for each image; convert it"
        )
    for key, dataset in (("imgs", imgs), ("labels", labels)):
        stored = dataset.id.get_storage_size()
        if dataset.nbytes > _MOST_COMPRESSION * stored:
            raise UserError(
                f"{printable(path)}: {key} declares {dataset.nbytes:,} bytes ({dataset.dtype} "
                f"{list(dataset.shape)}) and stores {stored:,}; it was not written to its end, "
                f"make it anew"
            )
    return imgs, labels


def _dataset(file: Any, key: str, path: Path) -> Any:
    import h5py

    link = file.get(key, getlink=True)
    found = file.get(key) if isinstance(link, h5py.HardLink) else None
    if link is not None and not isinstance(link, h5py.HardLink):
        elsewhere = True
    else:
        elsewhere = isinstance(found, h5py.Dataset) and bool(found.is_virtual or found.external)
    if elsewhere:
        raise UserError(
            f"{printable(path)}: {key} is a link or lies in another file, and other files are not "
            f"opened on a file's word; copy the data into {path.name} itself (h5repack)"
        )
    if not isinstance(found, h5py.Dataset):
        present = ", ".join(sorted(file)) or "nothing"
        raise UserError(
            f"{printable(path)} has no data set {key!r} (it holds: {present}); StudioGAN's layout "
            f"is imgs uint8 [N, H, W, 3] and labels int64 [N]"
        )
    return found


def _class_names(
    classes: np.ndarray, num_classes: int | None, path: Path, split: str
) -> tuple[str, ...]:
    smallest, largest = int(classes.min()), int(classes.max())
    allowed = min(largest + 1, _MAX_CLASSES) if num_classes is None else num_classes
    if smallest < 0 or largest >= allowed:
        wrong = smallest if smallest < 0 else largest
        raise UserError(
            f"{printable(path)} has the label {wrong}, allowed are 0..{allowed - 1}; mend the "
            f"labels or set DATA.num_classes"
        )
    missing = [str(label) for label in np.setdiff1d(np.arange(allowed), classes)]
    if split == "train" and num_classes is not None and missing:
        raise UserError(
            f"DATA.num_classes is {num_classes}, but {printable(path)} has no image of "
            f"{len(missing)} of them ({some(missing)}); number the labels from 0 without gaps and "
            f"set DATA.num_classes={num_classes - len(missing)}, or give other data"
        )
    return tuple(str(label) for label in range(allowed))


class Hdf5Source:
    """Makes the images of an HDF5 file one at a time; each process opens the file for itself.

    Args:
        path: the file.
        count: images in it.
        img_size: edge of the images in pixels.
    """

    def __init__(self, path: Path, count: int, img_size: int) -> None:
        self._path = path
        self._count = count
        self._img_size = img_size
        self._imgs: Any = None
        self._process = -1

    @property
    def img_size(self) -> int:
        """Edge of the images in pixels."""
        return self._img_size

    def __len__(self) -> int:
        return self._count

    def picture(self, index: int) -> Picture:
        """Read and resize image ``index``.

        Raises:
            UnreadableImage: the file is damaged there.
        """
        import h5py

        try:
            if self._process != os.getpid():
                # an open file shared with a forked process would be read at the other's position
                self._imgs = h5py.File(self._path, "r")["imgs"]
                self._process = os.getpid()
            pixels = self._imgs[index]
        except (OSError, RuntimeError, KeyError, ValueError) as error:
            raise UnreadableImage(f"{printable(self._path)}, image {index}: {error}") from error
        return Picture(fit(Image.fromarray(pixels), self._img_size))

    def __getstate__(self) -> dict[str, Any]:
        return vars(self) | {"_imgs": None, "_process": -1}


def _leave_on_disk(path: Path, img_size: int, labels: Tensor, reading: Reading) -> StoredImages:
    """Looked through once for damage and the fingerprint, which the cache folder keeps."""
    status = path.stat()
    facts = (status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino)
    cache = SetCache("surveys", path, split="all", img_size=img_size, signature=repr(facts))
    source = Hdf5Source(path, len(labels), img_size)
    kept = cache.load()
    if kept is None:
        rows = range(len(labels))
        findings, digest = look_through(source, rows, labels, num_workers=reading.workers)
        for reason in findings.damaged.values():
            raise UserError(
                f"{printable(path)} is not a readable HDF5 file ({reason}); make it anew"
            )
        kept = {"digest": digest}
        cache.store(kept)
    return StoredImages(
        source, torch.arange(len(labels)), num_workers=reading.workers, digest=kept["digest"]
    )


def _read_images(imgs: Any, img_size: int) -> torch.Tensor:
    images = torch.empty(len(imgs), 3, img_size, img_size, dtype=torch.uint8)
    for start in range(0, len(imgs), _IMAGES_AT_A_TIME):
        block = slice(start, start + _IMAGES_AT_A_TIME)
        images[block] = fit_arrays(imgs[block], img_size)
    return images
