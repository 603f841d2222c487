"""`topk-plugin sample`."""

import argparse

from topk_plugin.base.errors import UserError
from topk_plugin.cli.common import (
    add_checkpoint_arguments,
    add_device_argument,
    add_rejection_argument,
    chosen_judge,
    nonempty_path,
    open_checkpoint,
    positive,
    say,
    seed,
)

HELP = "draw images from the generator of a checkpoint"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_checkpoint_arguments(parser)
    add_rejection_argument(parser)
    parser.add_argument(
        "-save",
        "--save_dir",
        type=nonempty_path,
        required=True,
        metavar="PATH",
        help="a .png file for one grid, or a folder for one PNG an image",
    )
    parser.add_argument(
        "--num_images", type=positive, default=100, metavar="N", help="how many (default: 100)"
    )
    parser.add_argument(
        "--labels",
        type=int,
        nargs="+",
        metavar="CLASS",
        help="classes to draw, in turn; default: all of them",
    )
    parser.add_argument("--seed", type=seed, default=0)
    add_device_argument(parser)


def run(options: argparse.Namespace) -> int:
    import torch

    from topk_plugin.engine import processes
    from topk_plugin.engine.latents import LatentSource
    from topk_plugin.engine.rejection import Rejection
    from topk_plugin.engine.sample_grid import generate, save_grid, save_png

    suffix = options.save_dir.suffix.lower()
    if suffix in (".jpg", ".jpeg", ".gif", ".bmp", ".tif", ".tiff", ".webp"):
        raise UserError(f"-save {options.save_dir}: images are written as .png, not {suffix}")
    if suffix != ".png" and options.save_dir.is_file():
        raise UserError(f"-save {options.save_dir} is a file; give a folder, or a .png file")
    if suffix != ".png" and any(options.save_dir.glob("*.png")):
        raise UserError(
            f"-save {options.save_dir} holds images already, which would be mixed with the new "
            "ones; remove them or give another folder"
        )
    session, checkpoint = open_checkpoint(options)
    config, device = session.config, session.device
    classes = config.DATA.num_classes
    wanted = options.labels or list(range(classes))
    for label in wanted:
        if not 0 <= label < classes:
            raise UserError(f"--labels {label}: this model's classes are 0..{classes - 1}")
    source = LatentSource(config, seed=options.seed, device=device)
    # as evenly as it goes over the classes, the images of a class together: a row of a grid each
    turns = sorted(i % len(wanted) for i in range(options.num_images))
    labels = torch.tensor([wanted[turn] for turn in turns], device=device)
    sampler, judge = session.sampler(use_ema=not options.raw), chosen_judge(options, session)
    if judge is None:
        latents = source.latents(len(labels))
        images = generate(sampler, latents, labels, batch_size=config.OPTIMIZATION.batch_size)
    else:
        rejection = Rejection(sampler, judge, source, seed=options.seed)
        images = rejection.draw(labels)
        say(f"{rejection.kept_share:.0%} of {rejection.drawn:,} images passed the second critic")
    if suffix == ".png" and processes.is_first():
        save_grid(options.save_dir, images, columns=turns.count(0))
    elif processes.is_first():
        for i, (image, label) in enumerate(zip(images, labels.tolist(), strict=True)):
            save_png(options.save_dir / f"{i:06d}_class{label}.png", image)
    say(f"{len(images)} images of step {checkpoint.step:,} in {options.save_dir}")
    processes.part()
    return 0
