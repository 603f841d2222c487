"""Options and choices that several commands share."""

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from topk_plugin.base.errors import UserError
from topk_plugin.base.launched import is_first_process
from topk_plugin.evaluation.extractor_names import CHOICES
from topk_plugin.evaluation.metrics import METRICS

if TYPE_CHECKING:
    import torch

    from topk_plugin.engine.checkpoint import Checkpoint
    from topk_plugin.engine.data.reading import Reading
    from topk_plugin.engine.session import Session

# Exit statuses beside 0.
USER_ERROR, DIVERGED, INTERRUPTED = 2, 3, 130


def say(line: str) -> None:
    """A line for people, on standard error, so that standard output stays data.

    Of several processes only the first one says it.
    """
    if is_first_process():
        print(line, file=sys.stderr, flush=True)


def positive(text: str) -> int:
    """A whole number above 0, for argparse."""
    try:
        number = int(text)
    except ValueError:
        number = 0
    if number < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number above 0, not {text!r}")
    return number


def whole(text: str) -> int:
    """A whole number from 0, for argparse."""
    try:
        number = int(text)
    except ValueError:
        number = -1
    if number < 0:
        raise argparse.ArgumentTypeError(f"must be a whole number from 0, not {text!r}")
    return number


def seed(text: str) -> int:
    """A whole number from 0 to 2^32 - 1, for argparse."""
    try:
        number = int(text)
    except ValueError:
        number = -1
    if not 0 <= number < 2**32:
        raise argparse.ArgumentTypeError(
            f"must be a whole number from 0 to {2**32 - 1}, not {text!r}"
        )
    return number


def nonempty_path(text: str) -> Path:
    """A path that is not empty (an unset shell variable, most likely), for argparse."""
    if not text:
        raise argparse.ArgumentTypeError("is empty; give a path")
    return Path(text)


def add_data_argument(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "-data",
        "--data_dir",
        type=nonempty_path,
        metavar="PATH",
        help="images: a folder or .zip of class folders, an .hdf5 file of StudioGAN, or "
        "torchvision's folder; default: the data set named in the config, downloaded if need be",
    )
    add_reading_arguments(parser)


def add_reading_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--background",
        metavar="COLOUR",
        help="what lies behind transparent pixels: a name or #rrggbb; default: white, or the "
        "checkpoint's",
    )
    parser.add_argument(
        "--skip_damaged",
        action="store_true",
        help="leave out image files that can't be decoded, and count them in result.json; "
        "otherwise they are refused, all at once",
    )
    parser.add_argument(
        "--stream",
        action="store_true",
        help="read the images anew in every epoch, by worker processes, instead of holding them in "
        "memory; by itself where they would take more than half of the free memory",
    )
    parser.add_argument(
        "--num_workers",
        type=whole,
        metavar="N",
        help="processes that read streamed images; default: one a processor, at most 8",
    )


def chosen_reading(
    options: argparse.Namespace, checkpoint: "Checkpoint | None" = None
) -> "Reading":
    """How image files are to be read: as asked, else as for the checkpoint, else plainly.

    Raises:
        UserError: ``--background`` is no colour.
    """
    from topk_plugin.engine.data.colours import parse_colour
    from topk_plugin.engine.data.reading import WHITE, Reading

    before = {} if checkpoint is None else checkpoint.data
    if options.background is None:
        red, green, blue = before.get("background", WHITE)
        background = (int(red), int(green), int(blue))
    else:
        background = parse_colour(options.background)
    return Reading(
        background,
        skip_damaged=options.skip_damaged or before.get("skipped", 0) > 0,
        stream=options.stream or None,
        num_workers=options.num_workers,
    )


def add_checkpoint_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "-ckpt",
        "--ckpt_dir",
        type=nonempty_path,
        required=True,
        metavar="DIR",
        help="a run's folder (its last checkpoint), a .pt file, or what `export` wrote",
    )
    parser.add_argument(
        "-best", "--load_best", action="store_true", help="the best checkpoint, not the last"
    )
    parser.add_argument(
        "--raw", action="store_true", help="the generator itself, not its moving average"
    )


def add_rejection_argument(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--no_rejection",
        action="store_true",
        help="take images as they come, where the checkpoint has a second critic to draw them with "
        "by rejection (Self-Diagnosing GAN)",
    )


def chosen_judge(options: argparse.Namespace, session: "Session") -> "torch.nn.Module | None":
    """The critic to draw samples with by rejection, unless ``--no_rejection`` says otherwise.

    Raises:
        UserError: ``--no_rejection`` for a checkpoint that has none.
    """
    judge = session.judge()
    if judge is None and options.no_rejection:
        raise UserError(
            "--no_rejection, but this checkpoint has no second critic to reject with; leave it out"
        )
    return None if options.no_rejection else judge


def add_device_argument(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--device",
        default="auto",
        help="auto (the default), cpu, cuda, or what else torch calls its accelerator here",
    )


def add_metric_arguments(parser: argparse.ArgumentParser, default: list[str]) -> None:
    parser.add_argument(
        "-metrics",
        "--eval_metrics",
        nargs="+",
        choices=(*METRICS, "none"),
        default=default,
        help="what to measure; "
        + "; ".join(f"{metric.name}: {metric.measures}" for metric in METRICS.values()),
    )
    parser.add_argument(
        "--extractor",
        choices=CHOICES,
        default="auto",
        help="feature extractor: torch-fidelity's Inception, EfficientNet-Lite0 (extra imagenet), "
        "or a small one trained once on the data set; auto takes the first that can be had",
    )
    parser.add_argument(
        "--inception_weights",
        type=nonempty_path,
        metavar="FILE",
        help="torch-fidelity's weights file",
    )
    parser.add_argument(
        "--num_samples",
        type=positive,
        metavar="N",
        help="generated images to measure; default: as many as the reference, at most 50,000",
    )


def chosen_metrics(given: list[str]) -> list[str]:
    """The metrics to measure, [] for "none".

    Raises:
        UserError: "none" beside others.
    """
    if "none" not in given:
        return given
    if set(given) != {"none"}:
        raise UserError(f"-metrics {' '.join(given)}: 'none' stands alone; drop it or the others")
    return []


def chosen_device(name: str) -> "torch.device":
    """The device of ``--device``.

    Raises:
        UserError: CUDA asked for where there is none, or a device that torch doesn't have here.
    """
    import torch

    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and not torch.cuda.is_available():
        raise UserError(
            "--device cuda, but torch finds no CUDA device; use --device cpu or auto, or see "
            "`topk-plugin doctor`"
        )
    if name not in ("cpu", "cuda"):
        # torch.accelerator is there from torch 2.6 on
        found = getattr(torch, "accelerator", None) and torch.accelerator.current_accelerator()
        other = found.type if found else "cuda"
        if name != other:
            more = "" if other == "cuda" else f" or {other}"
            allowed = f"auto, cpu, cuda{more}" if more else "auto, cpu or cuda"
            raise UserError(f"--device {name}: torch has no such device here; allowed: {allowed}")
    return torch.device(name)


def open_checkpoint(options: argparse.Namespace) -> "tuple[Session, Checkpoint]":
    """What `add_checkpoint_arguments` and `add_device_argument` name, and -data where given.

    Raises:
        UserError: there is no such checkpoint or device, or the processes can't meet.
    """
    from topk_plugin.engine.checkpoint import BEST, LAST, checkpoint_file, load_checkpoint
    from topk_plugin.engine.export.weights import exported_weights, load_generator
    from topk_plugin.engine.processes import join
    from topk_plugin.engine.session import Session

    device = join(chosen_device(options.device))
    exported = exported_weights(options.ckpt_dir)
    if exported is not None:
        if options.load_best:
            raise UserError(f"-best, but {options.ckpt_dir} is an export of one step; drop -best")
        checkpoint = load_generator(exported, raw=options.raw)
    else:
        name = BEST if options.load_best else LAST
        checkpoint = load_checkpoint(checkpoint_file(options.ckpt_dir, name))
    if not hasattr(options, "data_dir"):  # a command that reads no images
        return Session.open(checkpoint.config, None, device, checkpoint=checkpoint), checkpoint
    session = Session.open(
        checkpoint.config,
        options.data_dir,
        device,
        checkpoint=checkpoint,
        train_data=options.train_data,
        reading=chosen_reading(options, checkpoint),
    )
    return session, checkpoint
