"""From a data set's name and path to the images: which source is meant, and is it what it says."""

from collections.abc import Callable
from pathlib import Path

from topk_plugin.base.errors import UserError
from topk_plugin.base.files import cache_folder
from topk_plugin.engine.data.class_folders import some
from topk_plugin.engine.data.digits import load_digits
from topk_plugin.engine.data.folder import load_folder
from topk_plugin.engine.data.hdf5 import load_hdf5
from topk_plugin.engine.data.images import ImageSet
from topk_plugin.engine.data.printable_paths import printable
from topk_plugin.engine.data.reading import PLAINLY, Reading
from topk_plugin.engine.data.splits import SPLITS
from topk_plugin.engine.data.torchvision_sets import (
    TORCHVISION_SETS,
    load_torchvision_set,
    torchvision_root,
)
from topk_plugin.engine.data.zip_archive import load_zip

HDF5_SUFFIXES = (".hdf5", ".h5")

# DATA.name -> images that need no path and no download; a set of one's own is one more entry.
NAMED_SETS: dict[str, Callable[..., ImageSet]] = {"Digits": load_digits}


def open_images(
    name: str,
    path: Path | None,
    *,
    img_size: int,
    split: str = "train",
    num_classes: int | None = None,
    download: bool = True,
    reading: Reading = PLAINLY,
) -> ImageSet:
    """Open one split of a data set as uint8 [N, 3, img_size, img_size].

    The images are held in memory, or stay on the disk where ``reading`` says so: by default when
    they would take more than half of the free memory. Such a set is looked through once, whole.

    Without a path: ``Digits`` is scikit-learn's bundled set; ``CIFAR10``, ``CIFAR100`` and
    ``FashionMNIST`` are torchvision's, kept in the cache folder. A path is a zip of class folders,
    an HDF5 file in StudioGAN's layout, or a folder: with torchvision's copy of the named set, empty
    (the named set is downloaded there), or with class folders. Images of another size are cropped
    to a centred square and resized (Lanczos, antialiased).

    Args:
        name: DATA.name.
        path: file or folder, or None.
        img_size: edge of the images in pixels.
        split: train, valid, val or test.
        num_classes: DATA.num_classes, to be checked against the data; None: not checked.
        download: whether the network may be used.
        reading: how image files are read, and where the images are kept.

    Raises:
        UserError: an unknown split or name, a missing or unreadable path, no images, no such split,
            or another number of classes than ``num_classes``.
        ValueError: ``img_size`` is below 1.
    """
    if img_size < 1:
        raise ValueError(f"img_size must be at least 1, got {img_size}")
    if split not in SPLITS:
        raise UserError(f"Unknown split {split!r}; choose one of {', '.join(SPLITS)}")
    images = (
        _open_named(name, img_size=img_size, split=split, download=download, reading=reading)
        if path is None
        else _open_path(
            name,
            path.expanduser(),
            img_size=img_size,
            split=split,
            num_classes=num_classes,
            download=download,
            reading=reading,
        )
    )
    found = len(images.class_names)
    if num_classes is not None and found != num_classes:
        one = "; for one class of all of them give the folder around it" if num_classes == 1 else ""
        raise UserError(
            f"DATA.num_classes is {num_classes}, but {name if path is None else printable(path)} "
            f"has {found} {'class' if found == 1 else 'classes'} ({some(images.class_names)}); "
            f"give other data or set DATA.num_classes={found} in the config of the training{one}"
        )
    return images


def holds_one_split(path: Path) -> bool:
    """Whether the path's images are of one split, whichever is asked for: an HDF5 file's."""
    return path.suffix.lower() in HDF5_SUFFIXES


def _open_named(
    name: str, *, img_size: int, split: str, download: bool, reading: Reading
) -> ImageSet:
    if name in TORCHVISION_SETS:
        root = cache_folder() / "data"
        return load_torchvision_set(
            name, root, img_size=img_size, split=split, download=download, reading=reading
        )
    if name in NAMED_SETS:
        return NAMED_SETS[name](name=name, img_size=img_size, split=split)
    known = ", ".join((*NAMED_SETS, *TORCHVISION_SETS))
    raise UserError(
        f"DATA.name {name!r} comes with no images; give them with -data PATH (a folder or zip of "
        f"class folders, or an HDF5 file), or use one of {known}"
    )


def _open_path(
    name: str,
    path: Path,
    *,
    img_size: int,
    split: str,
    num_classes: int | None,
    download: bool,
    reading: Reading,
) -> ImageSet:
    shown = printable(path)
    if not path.exists():
        raise UserError(
            f"The data path {shown} does not exist; give a folder, a .zip or an .hdf5 file that "
            f"does"
        )
    if path.is_dir():
        if name in TORCHVISION_SETS:
            root = torchvision_root(name, path)
            if root is None and not any(path.iterdir()):
                root = path
            if root is not None:
                return load_torchvision_set(
                    name, root, img_size=img_size, split=split, download=download, reading=reading
                )
        return load_folder(
            path,
            name=name,
            img_size=img_size,
            split=split,
            num_classes=num_classes,
            reading=reading,
        )
    if not path.is_file():
        raise UserError(f"The data path {shown} is a device or a pipe; give a folder or a file")
    suffix = path.suffix.lower()
    if suffix == ".zip":
        return load_zip(
            path,
            name=name,
            img_size=img_size,
            split=split,
            num_classes=num_classes,
            reading=reading,
        )
    if holds_one_split(path):
        return load_hdf5(
            path,
            name=name,
            img_size=img_size,
            split=split,
            num_classes=num_classes,
            reading=reading,
        )
    raise UserError(
        f"The data file {shown} ends in {suffix or 'nothing'!r}; allowed are .zip, .hdf5 and .h5, "
        f"or a folder"
    )
