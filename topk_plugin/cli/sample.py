"""`topk-plugin sample`."""

import argparse
from pathlib import Path

from topk_plugin.cli.common import (
    add_checkpoint_arguments,
    add_device_argument,
    chosen_device,
    positive,
    say,
    seed,
)
from topk_plugin.errors import UserError

HELP = "draw images from the generator of a checkpoint"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_checkpoint_arguments(parser)
    parser.add_argument(
        "-save",
        "--save_dir",
        type=Path,
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

    from topk_plugin.engine.checkpoint import BEST, LAST, checkpoint_file, load_checkpoint
    from topk_plugin.engine.latents import LatentSource
    from topk_plugin.engine.networks import build_generator
    from topk_plugin.engine.networks.sampling import sampling_copy
    from topk_plugin.engine.sample_grid import generate, save_grid, save_png

    device = chosen_device(options.device)
    path = checkpoint_file(options.ckpt_dir, BEST if options.load_best else LAST)
    checkpoint = load_checkpoint(path)
    config = checkpoint.config
    classes = config.DATA.num_classes
    wanted = options.labels or list(range(classes))
    for label in wanted:
        if not 0 <= label < classes:
            raise UserError(f"--labels {label}: this model's classes are 0..{classes - 1}")
    generator = build_generator(config.MODEL, config.DATA)
    weights = None if options.raw else checkpoint.trainer["generator_ema"]
    generator.load_state_dict(checkpoint.trainer["generator"] if weights is None else weights)
    source = LatentSource(config, seed=options.seed, device=device)
    # one row of a grid a class: the images of a class stay together
    per_class = -(-options.num_images // len(wanted))
    labels = torch.tensor(wanted, device=device).repeat_interleave(per_class)
    labels = labels[: options.num_images]
    images = generate(
        sampling_copy(generator.to(device)),
        source.latents(len(labels)),
        labels,
        batch_size=config.OPTIMIZATION.batch_size,
    )
    if options.save_dir.suffix.lower() == ".png":
        save_grid(options.save_dir, images, columns=min(per_class, len(images)))
    else:
        for i, (image, label) in enumerate(zip(images, labels.tolist(), strict=True)):
            save_png(options.save_dir / f"{i:06d}_class{label}.png", image)
    say(f"{len(images)} images of step {checkpoint.step:,} in {options.save_dir}")
    return 0
