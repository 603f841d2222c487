"""Which files are the images of which class, in a folder or a zip alike."""

from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

from topk_plugin.base.errors import UserError
from topk_plugin.engine.data.formats import SUFFIXES, is_image
from topk_plugin.engine.data.printable_paths import printable
from topk_plugin.engine.data.splits import split_meant_by, stand_ins

# People wrap their data in one or two folders; more is another layout.
_MOST_WRAPPERS = 3

# A path's parts; a folder's end in "".
_Parts = tuple[str, ...]


@dataclass(frozen=True)
class ClassFolders:
    """The images of one split: ``files[i]`` (relative path) has label ``labels[i]``.

    Attributes:
        class_names: of the training split where there is one, in alphabetical order, as
            torchvision's ImageFolder numbers them; a held-out split may lack images of some.
        files: relative paths with forward slashes.
        labels: indices into ``class_names``.
        place: the folder that holds the class folders, with a slash at its end; "" for the top.
        left_out: what lies there and is not used, in words.
    """

    class_names: tuple[str, ...]
    files: tuple[str, ...]
    labels: tuple[int, ...]
    place: str = ""
    left_out: tuple[str, ...] = ()

    def describe(self, where: str, count: int | None = None) -> str:
        """One line of provenance: how many images, in which format, in how many classes."""
        suffixes = sorted({PurePosixPath(file).suffix.lower() for file in self.files})
        line = (
            f"{where}/{self.place}".rstrip("/")
            + f": {len(self.files) if count is None else count} images ({', '.join(suffixes)}) "
            f"in {len(self.class_names)} class folders"
        )
        return line + (f"; left out: {', '.join(self.left_out)}" if self.left_out else "")


def find_class_folders(
    entries: Iterable[str], *, split: str, where: str, num_classes: int | None = None
) -> ClassFolders:
    """Find the class folders of ``split`` among relative paths.

    Two layouts are known: class folders at the top, which are the train split; and class folders
    in folders whose names mean splits (``splits.py``), where held-out splits stand in for one
    another. Either may lie in up to three folders that hold nothing else. A single folder of
    folders of images is taken for such a wrapper, unless ``num_classes`` is 1: then it is the one
    class.

    Args:
        entries: relative paths with forward slashes; a folder's ends in a slash.
        split: one of ``splits.SPLITS``.
        where: what to call the folder or archive in messages.
        num_classes: how many classes are expected, where that is known.

    Raises:
        UserError: no such split, no class folder, a class folder without an image, a held-out
            class that the training split has not, or a layout that could mean two things.
    """
    visible = [parts for entry in entries if (parts := _visible_parts(entry))]
    wrapper, found = _find_splits(visible, where)
    if not found:
        if split != "train":
            raise UserError(
                f"{where} has class folders only, which are the train split; for {split!r} put "
                f"them under train/ and {split}/"
            )
        return _collect(visible, where, num_classes)
    below = [parts[len(wrapper) :] for parts in visible if parts[: len(wrapper)] == wrapper]
    chosen = _choose(found, split, where)
    names: Collection[str] | None = None
    if split_meant_by(chosen) != "train" and "train" in found:
        train = _choose(found, "train", where)
        names = _collect(_inside(below, train), f"{where}/{train}", num_classes).class_names
    part = _collect(_inside(below, chosen), f"{where}/{chosen}", num_classes, names)
    prefix = "/".join((*wrapper, chosen, ""))
    beside = [parts[0] for parts in below if is_image(parts[-1]) and not split_meant_by(parts[0])]
    left_out = [
        f"{folder}/ beside the splits ({count} image{'s' * (count > 1)})"
        for folder, count in sorted(Counter(beside).items())
    ]
    return ClassFolders(
        part.class_names,
        tuple(prefix + file for file in part.files),
        part.labels,
        prefix + part.place,
        (*left_out, *part.left_out),
    )


def _visible_parts(entry: str) -> _Parts:
    """The path's parts, a folder's ending in ""; empty for what file managers leave behind."""
    parts = tuple(entry.split("/"))
    if any(part.startswith(".") or part == "__MACOSX" for part in parts):
        return ()
    return parts


def _find_splits(paths: Sequence[_Parts], where: str) -> tuple[_Parts, dict[str, list[str]]]:
    """The folders around the split folders, and the split folders' names by kind (or none)."""
    wrapper: _Parts = ()
    while True:
        found = _split_folders(paths)
        if found or len(wrapper) == _MOST_WRAPPERS:
            break
        top = _only_folder(paths)
        if top is None:
            break
        wrapper += (top,)
        paths = _inside(paths, top)
    if not found:
        return (), {}
    for names in found.values():
        if len({name.casefold() for name in names}) < len(names):
            raise UserError(
                f"{where} holds {' and '.join(sorted(names))}, one split in two spellings; "
                f"merge them or remove one"
            )
    return wrapper, found


def _split_folders(paths: Sequence[_Parts]) -> dict[str, list[str]]:
    """The top folders that mean a split, by kind; {} where the top folders are classes."""
    tops = sorted({parts[0] for parts in paths if len(parts) > 1})
    found: dict[str, list[str]] = {}
    for top in tops:
        kind = split_meant_by(top)
        if kind:
            found.setdefault(kind, []).append(top)
    others = [top for top in tops if not split_meant_by(top)]
    if not others:
        return found
    # "train" is also a vehicle: beside classes it is one, when its images lie in it directly.
    deep = any(
        len(parts) > 2 and is_image(parts[-1]) for parts in paths if split_meant_by(parts[0])
    )
    return found if "train" in found and (deep or len(found) > 1) else {}


def _only_folder(paths: Sequence[_Parts]) -> str | None:
    """The one folder that holds everything, when its images all lie in folders of their own."""
    images = [parts for parts in paths if is_image(parts[-1])]
    tops = {parts[0] for parts in paths if len(parts) > 1}
    if len(tops) == 1 and images and all(len(parts) > 2 for parts in images):
        return tops.pop()
    return None


def _inside(paths: Sequence[_Parts], folder: str) -> list[_Parts]:
    return [parts[1:] for parts in paths if parts[0] == folder and any(parts[1:])]


def _choose(found: dict[str, list[str]], split: str, where: str) -> str:
    kind = next((kind for kind in stand_ins(split) if kind in found), None)
    if kind is None:
        held = ", ".join(sorted(name for names in found.values() for name in names))
        raise UserError(
            f"{where} has no {split} split: it holds {held}; "
            f"add a folder {split}/ with one folder for each class"
        )
    names = found[kind]
    exact = [name for name in names if name.casefold() == split]
    if len(names) > 1 and not exact:
        raise UserError(
            f"{where} holds {' and '.join(names)}, which all may be the {split} split; keep one "
            f"of them there, or call one {split}"
        )
    return exact[0] if exact else names[0]


def _collect(
    paths: Sequence[_Parts],
    where: str,
    num_classes: int | None,
    class_names: Collection[str] | None = None,
) -> ClassFolders:
    """The class folders among ``paths``; a held-out split has the names of the training split."""
    place: _Parts = ()
    while len(place) < _MOST_WRAPPERS and num_classes != 1:
        top = _only_folder(paths)
        if top is None or (class_names is not None and top in class_names):
            break
        place += (top,)
        paths = _inside(paths, top)
    where = "/".join((where, *place))
    images_of, left_out = _by_class(paths)
    _check_classes(paths, images_of, where, class_names)
    ordered = tuple(sorted(images_of if class_names is None else class_names))
    prefix = "".join(f"{folder}/" for folder in place)
    files, labels = [], []
    for label, class_name in enumerate(ordered):
        images = sorted(images_of.get(class_name, ()))
        files += [prefix + file for file in images]
        labels += [label] * len(images)
    names = tuple(printable(name) for name in ordered)
    return ClassFolders(names, tuple(files), tuple(labels), prefix, left_out)


def _by_class(paths: Sequence[_Parts]) -> tuple[dict[str, list[str]], tuple[str, ...]]:
    """The images of each class folder, and words for what is none."""
    images_of: dict[str, list[str]] = {}
    others: Counter[str] = Counter()
    loose = 0
    for parts in paths:
        if len(parts) == 1:
            loose += is_image(parts[0])
            continue
        images = images_of.setdefault(parts[0], [])
        if is_image(parts[-1]):
            images.append("/".join(parts))
        elif parts[-1]:
            others[PurePosixPath(parts[-1]).suffix.lower() or "without an ending"] += 1
    left_out = [f"{loose} image{'s' * (loose > 1)} outside of the class folders"] if loose else []
    left_out += [f"{count} {suffix}" for suffix, count in sorted(others.items())]
    return images_of, tuple(left_out)


def _check_classes(
    paths: Sequence[_Parts],
    images_of: dict[str, list[str]],
    where: str,
    class_names: Collection[str] | None,
) -> None:
    if not images_of:
        loose = any(is_image(parts[-1]) for parts in paths)
        found = "images but no class folder" if loose else "no images in class folders"
        raise UserError(
            f"{where} holds {found}; put the images of each class in a folder of its own (one "
            f"folder, say {where}/all, when there are no classes)"
        )
    splits = sorted({parts[1] for parts in paths if len(parts) > 2 and split_meant_by(parts[1])})
    if len({split_meant_by(name) for name in splits}) > 1:
        raise UserError(
            f"{where} holds the class folders {some(sorted(images_of))} with {', '.join(splits)} "
            f"inside them; put the splits outside and the classes inside: train/"
            f"{min(images_of)}/..."
        )
    for class_name in sorted(images_of):
        if class_names is not None and class_name not in class_names:
            raise UserError(
                f"{where} has the class folder {class_name}, which the train split has not (it "
                f"has {some(sorted(class_names))}); rename or remove it"
            )
        if class_names is None and not images_of[class_name]:
            raise UserError(
                f"The class folder {where}/{class_name} holds no image "
                f"({', '.join(SUFFIXES)}); add images or remove the folder"
            )
    if not any(images_of.values()):
        raise UserError(f"{where} holds no image ({', '.join(SUFFIXES)}); add some")


def some(names: Sequence[str]) -> str:
    """The first five names, for a sentence."""
    return ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")
