"""`topk-plugin train`."""

import argparse
import os
import sys
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from topk_plugin.base.errors import UserError
from topk_plugin.base.launched import several_processes
from topk_plugin.cli.closing_table import describe_result
from topk_plugin.cli.common import (
    DIVERGED,
    INTERRUPTED,
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
from topk_plugin.cli.launching import command_typed, describe_processes, launch
from topk_plugin.cli.sentences import sentence_of

if TYPE_CHECKING:
    import torch

    from topk_plugin.engine.checkpoint import Checkpoint
    from topk_plugin.engine.config.config import Config
    from topk_plugin.engine.run_folder import RunFolder
    from topk_plugin.engine.session import Session
    from topk_plugin.engine.trainer import Trainer
    from topk_plugin.evaluation.evaluator import Evaluator

HELP = "train a GAN from a StudioGAN YAML file with the built-in trainer"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "-cfg",
        "--cfg_file",
        type=nonempty_path,
        required=True,
        metavar="FILE",
        help="StudioGAN YAML file, or the name of a config that comes with the package "
        "(`topk-plugin configs`)",
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
    parser.add_argument(
        "--precision",
        choices=("fp32", "bf16", "auto"),
        default=None,
        help="auto times a few steps of both and takes the faster; default: fp32, or the "
        "checkpoint's",
    )
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
        "--on_divergence",
        choices=("stop", "continue", "skip"),
        default="stop",
        help="what to do once a weight or an image is not finite (default: stop); such a state is "
        "neither saved nor measured. skip: leave out every update whose loss or gradient is not "
        "finite, and stop after 50 in a row",
    )
    parser.add_argument(
        "--processes",
        type=positive,
        metavar="N",
        help="train in N processes on this machine, which share every batch; on several machines "
        "start `torchrun ... -m topk_plugin train ...` instead",
    )
    parser.add_argument(
        "-sync_bn",
        "--synchronized_bn",
        action="store_true",
        help="with several processes: batch normalisation by the batches of all of them",
    )
    parser.add_argument(
        "--diagnostics",
        type=positive,
        metavar="STEPS",
        help="steps between two looks at the critic's ranking and at what the gate changes in the "
        "generator's gradient; the run says what they cost",
    )
    parser.add_argument(
        "--dry-run", action="store_true", help="print the plan and every option, and stop"
    )


def run(options: argparse.Namespace) -> int:
    from topk_plugin.engine import processes

    several = several_processes() or (options.processes or 1) > 1
    if several and options.on_divergence == "skip":
        raise UserError(
            "--on_divergence skip works in one process so far: each would judge the loss of its "
            "own part; train in one process, or with --on_divergence stop"
        )
    if options.processes is not None and options.processes > 1:
        if several_processes():
            raise UserError(
                f"--processes {options.processes} starts processes, and this is one of "
                f"{os.environ['WORLD_SIZE']} that torchrun has started; use one of the two"
            )
        return launch(options.processes, sys.argv[1:])
    device = processes.join(chosen_device(options.device))
    session, metrics = processes.all_or_none(lambda: _open(options, device), sentence_of)
    status = _run(options, session, metrics)
    processes.part()
    return status


def _open(options: argparse.Namespace, device: "torch.device") -> "tuple[Session, list[str]]":
    """Config, metrics, checkpoint and images: what every process opens for itself."""
    from topk_plugin.engine.config.config import load_config
    from topk_plugin.engine.replicas import check_batch_size
    from topk_plugin.engine.session import Session
    from topk_plugin.engine.shipped_configs import config_file
    from topk_plugin.gate import ranks

    config = load_config(config_file(options.cfg_file), options.set)
    check_batch_size(config.OPTIMIZATION.batch_size)
    metrics = chosen_metrics(options.eval_metrics)
    checkpoint = _find_checkpoint(options)
    if checkpoint is not None:
        _compare(options, config, checkpoint)
    session = Session.open(
        config,
        options.data_dir,
        device,
        checkpoint=checkpoint,
        reading=chosen_reading(options, checkpoint),
    )
    with ranks.first_before_others():  # it may download them
        _ = session.images
    return session, metrics


def _run(options: argparse.Namespace, session: "Session", metrics: list[str]) -> int:
    from topk_plugin.engine import processes
    from topk_plugin.engine.data.stored import StoredImages
    from topk_plugin.engine.plan import describe_plan, describe_trainer

    config, checkpoint, device = session.config, session.checkpoint, session.device
    start = "a new run" if checkpoint is None else f"{checkpoint.path}, step {checkpoint.step:,}"
    processes.must_agree(
        {
            "configs": config.to_yaml(),
            "starting points": start,
            "images": session.images.fingerprint(),
        }
    )
    say(f"data: {session.images.name}, {session.images.source}")
    stored = session.images.images
    if isinstance(stored, StoredImages):
        count = stored.num_workers
        readers = f"{count} worker process{'es' * (count > 1)}" if count else "this process"
        say(f"data: read anew in every epoch by {readers}")
    elif options.num_workers is not None:
        say("note: the images are held in memory, so --num_workers is not used (see --stream)")
    for line in describe_processes(config, synchronized_bn=options.synchronized_bn):
        say(line)
    seed = (options.seed or 0) if checkpoint is None else checkpoint.seed
    compiled = options.compile and not options.dry_run and _can_compile(device)
    trainer = session.trainer(
        seed=seed,
        precision=_precision(options, session, seed),
        compiled=compiled,
        synchronized_bn=options.synchronized_bn,
        skip_not_finite=options.on_divergence == "skip",
    )
    for line in describe_trainer(trainer, seed=seed, compiled=compiled):
        say(line)
    plan = describe_plan(
        config, images=trainer.image_count, steps_per_epoch=trainer.steps_per_epoch
    )
    for line in plan:
        say(line)
    _describe_checkpoint(session, trainer)
    if options.dry_run:
        if processes.is_first():
            print(config.to_yaml(), end="")
        return 0
    notes = [line for line in plan if line.startswith(("note:", "warning:"))]
    return _train(options, session, trainer, metrics, seed, notes)


def _train(
    options: argparse.Namespace,
    session: "Session",
    trainer: "Trainer",
    metrics: list[str],
    run_seed: int,
    notes: list[str],
) -> int:
    from topk_plugin.engine import processes
    from topk_plugin.engine.run import RunOptions, TrainingRun
    from topk_plugin.engine.run_folder import RunFolder
    from topk_plugin.engine.stopping import Interrupted
    from topk_plugin.evaluation.metrics import check_count
    from topk_plugin.gate import ranks

    if options.diagnostics is not None and ranks.world_size() > 1:
        raise UserError(
            f"--diagnostics {options.diagnostics} looks at a whole batch in one process, and this "
            f"training has {ranks.world_size()}; leave it out, or train in one"
        )
    num_samples = options.num_samples or min(len(session.images), 50_000)
    check_count(metrics, num_samples, "the generated set")
    command = command_typed(sys.argv[1:])
    total = session.config.OPTIMIZATION.total_steps
    run_options = RunOptions(
        seed=run_seed,
        print_freq=options.print_freq or min(100, max(1, total // 50)),
        save_freq=options.save_freq or min(2000, max(1, -(-total // 5))),
        num_samples=num_samples,
        command=command,
        on_divergence=options.on_divergence,
        diagnostics=options.diagnostics,
    )
    with ExitStack() as open_things:

        def prepare() -> "tuple[RunFolder | None, Evaluator | None]":
            """The first process writes; what it computes for the metrics, the others find."""
            folder = evaluator = None
            with ranks.first_before_others():
                if processes.is_first():
                    folder = open_things.enter_context(RunFolder(options.save_dir))
                if metrics:
                    evaluator = session.evaluator(
                        metrics,
                        extractor=options.extractor,
                        inception_weights=options.inception_weights,
                    )
            return folder, evaluator

        folder, evaluator = processes.all_or_none(prepare, sentence_of)
        if evaluator is not None:
            say(describe_extractor(evaluator.describe()))
        if folder is not None:
            facts = {
                "options": asdict(run_options),
                "device": session.device.type,
                "processes": ranks.world_size(),
                "class_names": list(session.images.class_names),
                "measured_with": {} if evaluator is None else evaluator.describe(num_samples),
                "notes": notes,
            }
            folder.write_start(session.config, command, facts)
        training = TrainingRun(
            trainer,
            session.images,
            folder,
            evaluator,
            run_options,
            checkpoint=session.checkpoint,
            say=say,
        )
        try:
            result = training.run()
        except Interrupted:
            saved = "" if training.diverged else " a checkpoint is saved,"
            resume = command if "-ckpt auto" in command else f"{command} -ckpt auto"
            say(f"stopped at step {trainer.step_count:,} of {total:,};{saved} go on with: {resume}")
            return INTERRUPTED
    for line in describe_result(result, options.save_dir, total_steps=total):
        say(line)
    return DIVERGED if result["status"] == "diverged" else 0


def describe_extractor(facts: dict[str, object]) -> str:
    """One line on what the metrics are measured with."""
    line = f"metrics: {facts['extractor']} extractor ({facts['reason']})"
    accuracy = facts.get("held_out_accuracy")
    if isinstance(accuracy, float):
        line += f", held-out accuracy {accuracy:.1%}"
    return f"{line}, reference {facts['reference']} ({facts['reference_size']} images)"


def _find_checkpoint(options: argparse.Namespace) -> "Checkpoint | None":
    from topk_plugin.engine.checkpoint import checkpoint_file, load_checkpoint, newest_checkpoint
    from topk_plugin.engine.export.weights import exported_weights
    from topk_plugin.engine.run_folder import has_run

    if options.ckpt_dir == "auto":
        return newest_checkpoint(options.save_dir, say)
    if options.ckpt_dir is not None and exported_weights(Path(options.ckpt_dir)) is not None:
        raise UserError(
            f"-ckpt {options.ckpt_dir} is an export, which holds a generator only; give the run's "
            "folder, whose checkpoints hold the whole training"
        )
    file = None if options.ckpt_dir is None else checkpoint_file(Path(options.ckpt_dir))
    own = file is not None and options.save_dir.resolve() in file.resolve().parents
    if has_run(options.save_dir) and not own and not options.dry_run:
        raise UserError(
            f"{options.save_dir} holds a run already; go on with it by -ckpt auto, or give "
            "another folder to -save"
        )
    return None if file is None else load_checkpoint(file)


def _compare(options: argparse.Namespace, config: "Config", checkpoint: "Checkpoint") -> None:
    """Say what is asked for otherwise than when the checkpoint was written."""
    changed = checkpoint.config.changes_to(config)
    if options.precision not in (None, "auto", checkpoint.precision):
        changed.append(f"--precision {checkpoint.precision} -> {options.precision}")
    if changed:
        say(f"note: the config differs from the checkpoint's: {', '.join(changed)}")
    if options.seed is not None and options.seed != checkpoint.seed:
        raise UserError(
            f"--seed {options.seed}, but the run was started with seed {checkpoint.seed}; drop "
            "--seed to go on with it, or start a new run"
        )


def _describe_checkpoint(session: "Session", trainer: "Trainer") -> None:
    if session.checkpoint is None:
        return
    if not session.has_the_checkpoints_images():
        say("note: these are not the images that the run was started with")
    say(f"resume: {session.checkpoint.path} at step {session.checkpoint.step:,}")
    if not trainer.exact:
        say(
            "note: the checkpoint is from another kind of device; random streams start anew, "
            "so the run does not go on bit for bit"
        )


def _can_compile(device: "torch.device") -> bool:
    from topk_plugin.engine.compiling import why_compiling_fails

    failure = why_compiling_fails(device)
    if failure is not None:
        say(f"note: torch.compile does not work here, so --compile is left out: {failure}")
    return failure is None


def _precision(options: argparse.Namespace, session: "Session", seed: int) -> str:
    """As asked, else the checkpoint's, else fp32; with what bf16 costs on a CPU."""
    from topk_plugin.engine.precision import bf16_cost, describe_bf16, faster, step_seconds
    from topk_plugin.gate import ranks

    checkpoint = session.checkpoint
    if options.precision in (None, "auto") and checkpoint is not None:
        return checkpoint.precision  # timed again, the run might not go on bit for bit
    if options.precision == "auto":
        seconds = step_seconds(session.config, session.images, device=session.device, seed=seed)
        chosen = ranks.of_the_first(lambda: faster(seconds))
        timed = ", ".join(f"{name} {value:.3g} s" for name, value in seconds.items())
        say(f"precision: {chosen}, for a step takes {timed} here")
        return chosen
    if options.precision == "bf16" and session.device.type == "cpu":
        cost = bf16_cost()
        slower = "; --precision fp32 is faster, auto times whole steps of both" if cost > 1 else ""
        say(f"{'note' if slower else 'precision'}: {describe_bf16(cost)}{slower}")
    return options.precision or "fp32"
