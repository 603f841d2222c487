"""Which files are the images of which class, in a folder or a zip alike."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

from topk_plugin.base.errors import UserError

SPLITS = ("train", "valid", "val", "test")
# Those of torchvision's ImageFolder.
_SUFFIXES = (".jpg", ".jpeg", ".png", ".ppm", ".pgm", ".bmp", ".tif", ".tiff", ".webp")


@dataclass(frozen=True)
class ClassFolders:
    """The images of one split: ``files[i]`` (relative path) has label ``labels[i]``.

    Labels number the class folders in alphabetical order, as torchvision's ImageFolder does.
    """

    class_names: tuple[str, ...]
    files: tuple[str, ...]
    labels: tuple[int, ...]

    def describe(self, where: str) -> str:
        """One line of provenance: how many images, in which format, in how many classes."""
        suffixes = sorted({PurePosixPath(file).suffix.lower() for file in self.files})
        return (
            f"{where}: {len(self.files)} images ({', '.join(suffixes)}) "
            f"in {len(self.class_names)} class folders"
        )


def is_image(file: str) -> bool:
    """Whether the name ends in one of the image suffixes (any case)."""
    return PurePosixPath(file).suffix.lower() in _SUFFIXES


def find_class_folders(entries: Iterable[str], *, split: str, where: str) -> ClassFolders:
    """Find the class folders of ``split`` among relative paths.

    Two layouts are known: class folders at the top, which are the train split; and class folders
    in train/ and valid/, val/ or test/. There the three names of held-out data stand in for one
    another, because StudioGAN asks for ``valid`` whatever is being evaluated.

    Args:
        entries: relative paths with forward slashes; a folder's ends in a slash.
        split: one of ``SPLITS``.
        where: what to call the folder or archive in messages.

    Raises:
        UserError: no such split, no class folder, or a class folder without an image.
    """
    visible = [parts for entry in entries if (parts := _visible_parts(entry))]
    tops = {parts[0] for parts in visible if len(parts) > 1}
    if tops & set(SPLITS) and ("train" in tops or tops <= set(SPLITS)):
        chosen = next((name for name in _same_split(split) if name in tops), None)
        if chosen is None:
            raise UserError(
                f"{where} has no {split} split: it holds {', '.join(sorted(tops & set(SPLITS)))}; "
                f"add a folder {split}/ with one folder for each class"
            )
        where = f"{where}/{chosen}"
        prefix = f"{chosen}/"
        visible = [parts[1:] for parts in visible if parts[0] == chosen and any(parts[1:])]
    elif split != "train":
        raise UserError(
            f"{where} has class folders only, which are the train split; for {split!r} put them "
            f"under train/ and {split}/"
        )
    else:
        prefix = ""
    return _collect(visible, prefix, where)


def _visible_parts(entry: str) -> tuple[str, ...]:
    """The path's parts, a folder's ending in ""; empty for what file managers leave behind."""
    parts = tuple(entry.split("/"))
    if any(part.startswith(".") or part == "__MACOSX" for part in parts):
        return ()
    return parts


def _same_split(split: str) -> tuple[str, ...]:
    if split == "train":
        return ("train",)
    return (split, *(name for name in SPLITS[1:] if name != split))


def _collect(paths: Sequence[tuple[str, ...]], prefix: str, where: str) -> ClassFolders:
    images_of: dict[str, list[str]] = {}
    loose_images = False
    for parts in paths:
        if len(parts) == 1:
            loose_images |= is_image(parts[0])
            continue
        images = images_of.setdefault(parts[0], [])
        if is_image(parts[-1]):
            images.append("/".join(parts))
    if not images_of:
        found = "images but no class folder" if loose_images else "no images in class folders"
        raise UserError(
            f"{where} holds {found}; put the images of each class in a folder of its own (one "
            f"folder, say {where}/all, when there are no classes)"
        )
    class_names = tuple(sorted(images_of))
    for class_name in class_names:
        if not images_of[class_name]:
            raise UserError(
                f"The class folder {where}/{class_name} holds no image "
                f"({', '.join(_SUFFIXES)}); add images or remove the folder"
            )
    files, labels = [], []
    for label, class_name in enumerate(class_names):
        files += [prefix + file for file in sorted(images_of[class_name])]
        labels += [label] * len(images_of[class_name])
    return ClassFolders(class_names, tuple(files), tuple(labels))
