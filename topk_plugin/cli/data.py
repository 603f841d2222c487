"""`topk-plugin data`."""

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

from topk_plugin.cli.common import (
    add_reading_arguments,
    chosen_reading,
    nonempty_path,
    positive,
    say,
)

if TYPE_CHECKING:
    from topk_plugin.engine.data.images import ImageSet

HELP = "look at a data set, choose its densest part, or write it as an HDF5 file of StudioGAN"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    info = actions.add_parser(
        "info", help="what a set holds, as JSON, with the section DATA that trains on it"
    )
    convert = actions.add_parser(
        "to-hdf5", help="write imgs and labels; a killed run goes on where it was"
    )
    select = actions.add_parser(
        "select",
        help="what DATA.keep would keep of a set and drop (instance selection), with pictures",
    )
    where = "a folder or .zip of class folders, or an .hdf5 file"
    named = "Digits, CIFAR10, CIFAR100, FashionMNIST"
    for action in (info, convert):
        action.add_argument(
            "path",
            type=nonempty_path,
            metavar="PATH",
            help=f"{where}; or the name of a set that needs no path: {named}",
        )
    select.add_argument(
        "-data", "--data_dir", dest="path", type=nonempty_path, metavar="PATH", help=where
    )
    select.add_argument(
        "--name", help=f"the set's name (DATA.name); of those that need no path: {named}"
    )
    select.add_argument(
        "--keep", type=float, required=True, metavar="SHARE", help="of each class, such as 0.5"
    )
    select.add_argument(
        "--density",
        choices=("gaussian", "knn"),
        default="gaussian",
        help="a Gaussian a class, or the distance to the 5th neighbour (default: gaussian)",
    )
    select.add_argument(
        *("-save", "--save_dir"),
        type=nonempty_path,
        required=True,
        metavar="FOLDER",
        help="where selection.json and the pictures go",
    )
    for action in (info, convert, select):
        action.add_argument(
            "--img_size",
            type=positive,
            default=32,
            metavar="PIXELS",
            help="edge of the images (default: 32)",
        )
        action.add_argument(
            "--split", default="train", help="train, valid or test (default: train)"
        )
        add_reading_arguments(action)
    convert.add_argument(
        "-save",
        "--save_file",
        type=nonempty_path,
        required=True,
        metavar="FILE",
        help="the HDF5 file to make",
    )


def run(options: argparse.Namespace) -> int:
    from topk_plugin.base.errors import UserError

    if options.action == "info":
        return _info(_open(options), options)
    if options.action == "select":
        return _select(options)
    from topk_plugin.engine.data.open import HDF5_SUFFIXES
    from topk_plugin.engine.data.to_hdf5 import write_hdf5

    file: Path = options.save_file
    if file.suffix.lower() not in HDF5_SUFFIXES:
        raise UserError(f"-save {file} ends in {file.suffix!r}; end it in .hdf5")
    images = _open(options)
    done = write_hdf5(images, file)
    say(f"{len(images):,} images in {file}" + (f", {done:,} from before" if done else ""))
    return 0


def _open(options: argparse.Namespace) -> "ImageSet":
    from topk_plugin.engine.data.open import NAMED_SETS, open_images
    from topk_plugin.engine.data.printable_paths import printable
    from topk_plugin.engine.data.torchvision_sets import TORCHVISION_SETS

    path: Path | None = options.path
    given: str | None = getattr(options, "name", None)
    name = given or printable(options.path.name or options.path)
    named = (*NAMED_SETS, *TORCHVISION_SETS)
    if given is None and name in named and not options.path.exists():
        path = None
    images = open_images(
        name,
        path,
        img_size=options.img_size,
        split=options.split,
        reading=chosen_reading(options),
    )
    say(f"data: {images.source}")
    return images


def _select(options: argparse.Namespace) -> int:
    from topk_plugin.base.errors import UserError
    from topk_plugin.engine.methods.instance_selection import select
    from topk_plugin.engine.selection_report import kept_counts, write_report

    if not 0 < options.keep <= 1:
        raise UserError(f"--keep is {options.keep:g}; it must be a share above 0 and at most 1")
    if options.path is None and options.name is None:
        raise UserError("data select needs -data PATH, or --name NAME for a set without a path")
    folder: Path = options.save_dir
    images = _open(options)
    selection = select(images, options.keep, options.density)
    write_report(folder, images, selection, keep=options.keep, density=options.density)
    for name, (kept, of) in kept_counts(images, selection).items():
        print(f"{name}: {kept:,} of {of:,} kept")
    say(f"{len(selection.kept):,} of {len(images):,} images kept; see {folder}")
    return 0


def _info(images: "ImageSet", options: argparse.Namespace) -> int:
    counts = images.labels.bincount(minlength=len(images.class_names)).tolist()
    facts = images.facts() | {
        "classes": dict(zip(images.class_names, counts, strict=True)),
        "bytes_in_memory": len(images) * 3 * options.img_size**2,
        "config": {
            "DATA": {
                "name": images.name,
                "img_size": options.img_size,
                "num_classes": len(images.class_names),
                "img_channels": 3,
            }
        },
    }
    print(json.dumps(facts, indent=2))
    return 0
