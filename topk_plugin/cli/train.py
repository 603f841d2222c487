"""`topk-plugin train`."""

import argparse
import os
import shlex
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from topk_plugin.base.errors import UserError
from topk_plugin.cli.common import (
    add_data_argument,
    add_device_argument,
    add_metric_arguments,
    chosen_device,
    chosen_metrics,
    chosen_reading,
    nonempty_path,
    positive,
    say,
    seed,
)

if TYPE_CHECKING:
    from topk_plugin.engine.checkpoint import Checkpoint
    from topk_plugin.engine.config.config import Config

HELP = "train a GAN from a StudioGAN YAML file with the built-in trainer"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "-cfg",
        "--cfg_file",
        type=nonempty_path,
        required=True,
        metavar="FILE",
        help="StudioGAN YAML file",
    )
    parser.add_argument(
        "-save",
        "--save_dir",
        type=nonempty_path,
        required=True,
        metavar="DIR",
        help="the run's folder",
    )
    add_data_argument(parser)
    parser.add_argument(
        "--set",
        nargs="+",
        action="extend",
        default=[],
        metavar="SECTION.key=value",
        help="override values of the config, e.g. --set LOSS.topk_nu=0.5",
    )
    parser.add_argument("--seed", type=seed, default=None, help="default: 0, or the checkpoint's")
    add_device_argument(parser)
    parser.add_argument("--precision", choices=("fp32", "bf16"), default=None)
    parser.add_argument(
        "--compile",
        action="store_true",
        help="put the networks through torch.compile: faster steps after a minute of compiling",
    )
    parser.add_argument(
        "-ckpt",
        "--ckpt_dir",
        metavar="auto|DIR",
        help="resume: auto goes on with the run in -save if there is one; DIR is a run's folder "
        "or a checkpoint file",
    )
    add_metric_arguments(parser, default=["fid"])
    parser.add_argument(
        "--print_freq", type=positive, metavar="STEPS", help="steps between log entries"
    )
    parser.add_argument(
        "--save_freq",
        type=positive,
        metavar="STEPS",
        help="steps between checkpoints, sample grids and evaluations; default: 2,000, or a fifth "
        "of a shorter run",
    )
    parser.add_argument(
        "--dry-run", action="store_true", help="print the plan and every option, and stop"
    )


def run(options: argparse.Namespace) -> int:
    if os.environ.get("WORLD_SIZE", "1") not in ("", "0", "1"):
        raise UserError(
            "the built-in trainer runs in one process, but WORLD_SIZE is "
            f"{os.environ['WORLD_SIZE']}; start it without torchrun, or train a StudioGAN "
            "checkout with -DDP"
        )
    from topk_plugin.engine.allocator import keep_freed_memory
    from topk_plugin.engine.compiling import why_compiling_fails
    from topk_plugin.engine.config.config import load_config
    from topk_plugin.engine.data.open import open_images
    from topk_plugin.engine.methods.registry import needs_of
    from topk_plugin.engine.plan import describe_plan
    from topk_plugin.engine.trainer import Trainer
    from topk_plugin.ops.dispatch import describe

    config = load_config(options.cfg_file, options.set)
    metrics = chosen_metrics(options.eval_metrics)
    device = chosen_device(options.device)
    if device.type == "cpu":
        keep_freed_memory()
    ops = describe(device)
    checkpoint = _find_checkpoint(options)
    run_seed, precision = _settle(options, config, checkpoint)
    images = open_images(
        config.DATA.name,
        options.data_dir,
        img_size=config.DATA.img_size,
        num_classes=config.DATA.num_classes,
        reading=chosen_reading(options, checkpoint),
    )
    say(f"data: {images.name}, {images.source}")
    compiled = options.compile and not options.dry_run
    failure = why_compiling_fails(device) if compiled else None
    if failure is not None:
        compiled = False
        say(f"note: torch.compile does not work here, so --compile is left out: {failure}")
    try:
        trainer = Trainer(
            config, images, seed=run_seed, device=device, precision=precision, compiled=compiled
        )
    except ValueError as error:
        raise UserError(
            f"section MODEL of {options.cfg_file} describes networks that can't be built: {error}; "
            "change g_conv_dim, d_conv_dim or the place of self-attention"
        ) from error
    counts = [
        sum(p.numel() for p in network.parameters()) / 1e6
        for network in (trainer.generator, trainer.critic)
    ]
    say(
        f"model: {config.MODEL.backbone} {config.MODEL.g_cond_mtd}/{config.MODEL.d_cond_mtd}, "
        f"generator {counts[0]:.2f} M and discriminator {counts[1]:.2f} M parameters, "
        f"{device.type}, {precision}{', compiled' if compiled else ''}, seed {run_seed}"
    )
    if compiled and needs_of(config).second_derivatives:
        say(
            "note: --compile leaves the discriminator as it is, since its gradient is penalised "
            "(LOSS.apply_gp, apply_r1_reg) and compiled code has no second derivative"
        )
    if precision == "bf16" and device.type == "cpu" and needs_of(config).second_derivatives:
        say(
            "note: on a CPU the discriminator's update stays in fp32, since its gradient is "
            "penalised (LOSS.apply_gp, apply_r1_reg) and bf16's second derivatives are wrong there"
        )
    say(ops)
    for line in describe_plan(config, images=len(images), steps_per_epoch=trainer.steps_per_epoch):
        say(line)
    if options.dry_run:
        print(config.to_yaml(), end="")
        return 0

    from topk_plugin.engine.run import Interrupted, RunOptions, TrainingRun
    from topk_plugin.engine.run_folder import RunFolder
    from topk_plugin.evaluation.evaluator import Evaluator
    from topk_plugin.evaluation.metrics import check_count

    num_samples = options.num_samples or min(len(images), 50_000)
    check_count(metrics, num_samples, "the generated set")
    if checkpoint is not None:
        if checkpoint.data.get("fingerprint") != images.fingerprint():
            say("note: these are not the images that the run was started with")
        checkpoint.restore(trainer)
        say(f"resume: {checkpoint.path} at step {checkpoint.step:,}")
        if not trainer.exact:
            say(
                "note: the checkpoint is from another kind of device; random streams start anew, "
                "so the run does not go on bit for bit"
            )
    folder = RunFolder(options.save_dir)
    evaluator = None
    if metrics:
        evaluator = Evaluator(
            images,
            metrics=metrics,
            extractor=options.extractor,
            inception_weights=options.inception_weights,
            device=device,
            seed=0,
        )
        say(describe_extractor(evaluator.describe()))
    command = shlex.join(["topk-plugin", *sys.argv[1:]])
    total = config.OPTIMIZATION.total_steps
    run_options = RunOptions(
        seed=run_seed,
        print_freq=options.print_freq or min(100, max(1, total // 50)),
        save_freq=options.save_freq or min(2000, max(1, -(-total // 5))),
        num_samples=num_samples,
        command=command,
    )
    folder.write_start(config, command, {"options": asdict(run_options), "device": device.type})
    training = TrainingRun(
        trainer, images, folder, evaluator, run_options, checkpoint=checkpoint, say=say
    )
    try:
        result = training.run()
    except Interrupted:
        say(
            f"stopped at step {trainer.step_count:,} of {total:,}; a checkpoint is saved, go on "
            f"with: {command} -ckpt auto"
        )
        return 130
    finally:
        folder.close()
    shown = ", ".join(f"{name} {value:.4g}" for name, value in result["metrics"].items())
    say(f"done: {result['steps']:,} steps{', ' if shown else ''}{shown}; see {options.save_dir}")
    return 0


def describe_extractor(facts: dict[str, object]) -> str:
    """One line on what the metrics are measured with."""
    line = f"metrics: {facts['extractor']} extractor ({facts['reason']})"
    accuracy = facts.get("held_out_accuracy")
    if isinstance(accuracy, float):
        line += f", held-out accuracy {accuracy:.1%}"
    return f"{line}, reference {facts['reference']} ({facts['reference_size']} images)"


def _find_checkpoint(options: argparse.Namespace) -> "Checkpoint | None":
    from topk_plugin.engine.checkpoint import checkpoint_file, load_checkpoint
    from topk_plugin.engine.run import has_run

    if options.ckpt_dir == "auto":
        last = options.save_dir / "checkpoints" / "last.pt"
        return load_checkpoint(last) if last.exists() else None
    file = None if options.ckpt_dir is None else checkpoint_file(Path(options.ckpt_dir))
    own = file is not None and options.save_dir.resolve() in file.resolve().parents
    if has_run(options.save_dir) and not own and not options.dry_run:
        raise UserError(
            f"{options.save_dir} holds a run already; go on with it by -ckpt auto, or give "
            "another folder to -save"
        )
    return None if file is None else load_checkpoint(file)


def _settle(
    options: argparse.Namespace, config: "Config", checkpoint: "Checkpoint | None"
) -> tuple[int, str]:
    """Seed and precision: as asked, else the checkpoint's, else the defaults."""
    if checkpoint is None:
        return options.seed or 0, options.precision or "fp32"
    changed = checkpoint.config.changes_to(config)
    if options.precision not in (None, checkpoint.precision):
        changed.append(f"--precision {checkpoint.precision} -> {options.precision}")
    if changed:
        say(f"note: the config differs from the checkpoint's: {', '.join(changed)}")
    if options.seed is not None and options.seed != checkpoint.seed:
        raise UserError(
            f"--seed {options.seed}, but the run was started with seed {checkpoint.seed}; drop "
            "--seed to go on with it, or start a new run"
        )
    return checkpoint.seed, options.precision or checkpoint.precision
