"""`topk-plugin evaluate`."""

import argparse
import json
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from topk_plugin.base.errors import UserError
from topk_plugin.cli.common import (
    add_checkpoint_arguments,
    add_data_argument,
    add_device_argument,
    add_metric_arguments,
    add_rejection_argument,
    chosen_judge,
    chosen_metrics,
    nonempty_path,
    open_checkpoint,
    say,
)
from topk_plugin.cli.sentences import sentence_of
from topk_plugin.cli.train import describe_extractor

if TYPE_CHECKING:
    from torch import nn

    from topk_plugin.engine.session import Session
    from topk_plugin.evaluation.evaluator import Evaluator

HELP = "measure the generator of a checkpoint"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_checkpoint_arguments(parser)
    add_rejection_argument(parser)
    add_data_argument(parser)
    add_device_argument(parser)
    add_metric_arguments(parser, default=["fid", "kid", "is", "prdc"])
    parser.add_argument(
        "-ref",
        "--ref_dataset",
        choices=("train", "valid", "test"),
        default="train",
        help="the split that samples are compared with",
    )
    parser.add_argument(
        "--train_data",
        type=nonempty_path,
        metavar="PATH",
        help="the training images, where they are not in -data beside the split of -ref (an .hdf5 "
        "file holds one split); default: -data",
    )


def run(options: argparse.Namespace) -> int:
    metrics = chosen_metrics(options.eval_metrics)
    if not metrics:
        raise UserError("evaluate with -metrics none measures nothing; name at least one metric")
    from topk_plugin.base.files import write_json
    from topk_plugin.engine import processes
    from topk_plugin.engine.accuracy import critic_accuracy
    from topk_plugin.engine.checkpoint import FOLDER
    from topk_plugin.engine.run import evaluate_generator

    session, checkpoint = open_checkpoint(options)
    sampler, judge, evaluator, count = processes.all_or_none(
        lambda: _open(options, session, metrics), sentence_of
    )
    say(describe_extractor(evaluator.describe()))
    weights = None if options.raw else checkpoint.trainer["generator_ema"]
    values, kept = evaluate_generator(
        sampler, session.config, evaluator, count, session.device, judge=judge
    )
    result = {
        "checkpoint": checkpoint.path.name,
        "step": checkpoint.step,
        "weights": "raw" if weights is None else "moving average",
        "reference_split": options.ref_dataset,
        "trained_on_these_images": session.has_the_checkpoints_images(),
        "metrics": values,
        "measured_with": evaluator.describe(count),
    }
    if kept is not None:
        result["rejection"] = {"kept_share": kept}
    critic = checkpoint.critic()
    if critic is not None:
        accuracy = critic_accuracy(
            critic.to(session.device),
            session.split(options.ref_dataset),
            batch_size=session.config.OPTIMIZATION.batch_size,
            device=session.device,
        )
        if accuracy is not None:  # the critic classifies
            result["critic_accuracy"] = accuracy
    if processes.is_first():
        print(json.dumps(result, indent=2))
        if options.ckpt_dir.is_dir():
            place = checkpoint.path.parent
            folder = place.parent if place.name == FOLDER else place
            written = folder / f"evaluation-{datetime.now(UTC):%Y%m%d-%H%M%S}.json"
            write_json(written, result)
            say(f"written to {written}")
    processes.part()
    return 0


def _open(
    options: argparse.Namespace, session: "Session", metrics: list[str]
) -> "tuple[nn.Module, nn.Module | None, Evaluator, int]":
    """The generator, its judge, what measures it, and how many images of it are measured."""
    from topk_plugin.engine.data.open import holds_one_split
    from topk_plugin.evaluation.metrics import check_count
    from topk_plugin.gate import ranks

    checkpoint = session.checkpoint
    assert checkpoint is not None
    one_split = options.data_dir is not None and holds_one_split(options.data_dir)
    if one_split and options.ref_dataset != "train" and options.train_data is None:
        raise UserError(
            f"-data {options.data_dir} holds one split, taken for the {options.ref_dataset} images "
            "of -ref; give the file of the training images too, by --train_data PATH"
        )
    sampler = session.sampler(use_ema=not options.raw)
    judge = chosen_judge(options, session)
    with ranks.first_before_others():  # it may download images, and fills the caches
        reference = session.split(options.ref_dataset)
        same_images = session.has_the_checkpoints_images()
        if not same_images and options.data_dir is None and options.train_data is None:
            raise UserError(
                f"{checkpoint.path} was trained on other images than {session.config.DATA.name} "
                f"({checkpoint.data.get('source')}); name them with -data"
            )
        if not same_images:
            say("note: these are not the images that the model was trained on")
        count = options.num_samples or min(len(reference), 50_000)
        check_count(metrics, count, "the generated set")
        evaluator = session.evaluator(
            metrics,
            extractor=options.extractor,
            inception_weights=options.inception_weights,
            reference=options.ref_dataset,
        )
    return sampler, judge, evaluator, count
