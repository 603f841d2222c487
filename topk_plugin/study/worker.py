"""Trains and measures one run: ``python -m topk_plugin.study.worker FOLDER``.

FOLDER holds spec.json. A run that was stopped goes on from its last checkpoint. In the end
FOLDER/run.json has everything that the report needs.
"""

import json
import os
import signal
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from sklearn.metrics import average_precision_score, roc_auc_score
from torch import Tensor

from topk_plugin.base.environment import environment
from topk_plugin.base.errors import UserError
from topk_plugin.base.files import write_json
from topk_plugin.engine.checkpoint import newest_checkpoint
from topk_plugin.engine.config.config import Config
from topk_plugin.engine.critic_scores import critic_scores
from topk_plugin.engine.data.images import ImageSet
from topk_plugin.engine.data.open import open_images
from topk_plugin.engine.divergence import not_finite
from topk_plugin.engine.methods.topk import k_of
from topk_plugin.engine.run import RunOptions, TrainingRun, evaluate_generator
from topk_plugin.engine.run_folder import RunFolder
from topk_plugin.engine.session import Session
from topk_plugin.engine.stopping import Interrupted
from topk_plugin.engine.trainer import Trainer
from topk_plugin.evaluation.evaluator import Evaluator
from topk_plugin.study import in_studiogan
from topk_plugin.study.measures import METRICS, Measures
from topk_plugin.study.spec import Data, RunSpec

RESULT = "run.json"
CHECKPOINTS = 10  # along a run, whatever the number of measurements
WATCH_SECONDS = 2.0


def main() -> None:
    folder = Path(sys.argv[1])
    signal.signal(signal.SIGTERM, _interrupt)  # while a trainer of ours runs it has its own
    _stop_without_parent()
    try:
        run(RunSpec.read(folder), folder)
    except (Interrupted, KeyboardInterrupt):
        sys.exit(130)
    except UserError as error:
        sys.exit(f"error: {error}")


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt  # unlike the default this also ends StudioGAN, where that trains


def _stop_without_parent() -> None:
    """Save and stop when the scheduler is gone: killed, it could not say so."""
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(WATCH_SECONDS)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, daemon=True).start()


def run(spec: RunSpec, folder: Path) -> None:
    """Train and measure what ``spec`` says, in ``folder``.

    Raises:
        Interrupted: asked to stop; a checkpoint is saved.
        UserError: data, config or extractor can't be used, or a file can't be written.
    """
    torch.set_num_threads(spec.threads)
    config = Config.from_dict(spec.config)
    every_class, test = open_both(spec.data, config)
    train = every_class if spec.hold_out is None else without_class(every_class, spec.hold_out)
    checkpoint = newest_checkpoint(folder, _say) if spec.studiogan is None else None
    session = Session.open(config, train, torch.device(spec.device), checkpoint=checkpoint)
    trainer = session.trainer(seed=spec.seed, precision=spec.precision)
    measures = Measures(
        trainer,
        train,
        test,
        extractor_data=every_class,
        samples=spec.samples,
        extractor=spec.extractor,
        inception_weights=None if spec.inception_weights is None else Path(spec.inception_weights),
    )
    run_folder = RunFolder(folder)
    command = f"python -m topk_plugin.study.worker runs/{spec.name}"
    run_folder.write_start(config, command, {"device": spec.device})
    if spec.studiogan is None:
        result = _train(spec, session, trainer, measures, run_folder, command)
    else:
        result = _train_in_studiogan(spec, trainer, measures, run_folder)
    content: dict[str, Any] = {
        "gan": spec.gan,
        "arm": spec.arm,
        "seed": spec.seed,
        "engine": "built in" if spec.studiogan is None else "StudioGAN",
        "hold_out": spec.hold_out,
        "precision": spec.precision,
        "precision_choice": spec.precision_choice,
        "threads": spec.threads,
        "config": spec.config,
        **result,
        "images_per_step": trainer.images_per_step,
        "environment": {k: v for k, v in environment().items() if k != "started"},
    }
    diverged = content["diverged_at_step"] is not None
    if spec.final_extractor is not None and not diverged:
        content |= _at_the_end(spec, trainer, train)
    if spec.hold_out is not None and not diverged:
        content["anomaly"] = anomaly_detection(trainer, test, spec.hold_out)
    write_json(folder / RESULT, content)
    run_folder.close()


def _say(line: str) -> None:
    print(line, flush=True)


def _train(
    spec: RunSpec,
    session: Session,
    trainer: Trainer,
    measures: Measures,
    folder: RunFolder,
    command: str,
) -> dict[str, Any]:
    """In the built-in trainer, measured along the way."""
    options = RunOptions(
        seed=spec.seed,
        print_freq=min(50, max(1, spec.steps // 20)),
        save_freq=spec.steps,
        measured_at=spec.measured_at,
        checkpoint_freq=-(-spec.steps // CHECKPOINTS),
        num_samples=spec.samples,
        command=command,
    )
    training = TrainingRun(
        trainer,
        session.images,
        folder,
        measures,
        options,
        checkpoint=session.checkpoint,
        say=_say,
    )
    result = training.run()
    names = ("history", "measured_with", "diverged_at_step", "training_seconds")
    return {name: result[name] for name in names} | {"k_at_the_end": k_of(trainer.terms)}


def _at_the_end(spec: RunSpec, trainer: Trainer, train: ImageSet) -> dict[str, Any]:
    """One more measurement of the moving average's images, in other features."""
    weights = spec.inception_weights
    evaluator = Evaluator(
        train,
        metrics=METRICS,
        extractor=spec.final_extractor or spec.extractor,
        inception_weights=None if weights is None else Path(weights),
        device=trainer.device,
        seed=0,
    )
    values, _ = evaluate_generator(
        *(trainer.sampler(), trainer.config, evaluator, spec.samples, trainer.device),
        judge=trainer.judge(),
    )
    return {
        "at_the_end": {f"final_{name}": value for name, value in values.items()},
        "at_the_end_measured_with": evaluator.describe(spec.samples),
    }


def _train_in_studiogan(
    spec: RunSpec, trainer: Trainer, measures: Measures, folder: RunFolder
) -> dict[str, Any]:
    """In StudioGAN's, measured at the end; it logs no times and no divergence for us to read."""
    sittings = folder.path / "seconds.json"
    before = json.loads(sittings.read_text())["seconds"] if sittings.exists() else 0.0
    started = time.perf_counter()
    try:
        in_studiogan.train(spec, trainer, folder.path)
    finally:
        seconds = round(before + time.perf_counter() - started, 1)
        write_json(sittings, {"seconds": seconds})
    finite = not not_finite(trainer.state_dict())
    values: dict[str, float] = {}
    if finite:  # what has diverged is not measured
        values, _ = evaluate_generator(
            trainer.sampler(), trainer.config, measures, spec.samples, trainer.device
        )
    return {
        "history": [{"step": spec.steps} | values],
        "measured_with": measures.describe(spec.samples),
        "diverged_at_step": None if finite else spec.steps,
        "training_seconds": seconds,
    }


def open_both(data: Data, config: Config) -> tuple[ImageSet, ImageSet]:
    """The training and the test split; of the digits, which have none, every fifth image is test.

    Raises:
        UserError: one of them can't be had.
    """
    if data.name == "Digits" and data.train is None:
        digits = open_images("Digits", None, img_size=config.DATA.img_size)
        is_test = torch.arange(len(digits)) % 5 == 0
        return _subset(digits, ~is_test, ""), _subset(digits, is_test, ", test split")
    paths = {"train": data.train, "test": data.test or data.train}
    train, test = (
        open_images(
            data.name,
            None if path is None else Path(path),
            img_size=config.DATA.img_size,
            # a file of its own for the test images has no splits
            split="train" if split == "test" and data.test is not None else split,
            num_classes=config.DATA.num_classes,
        )
        for split, path in paths.items()
    )
    return train, replace(test, name=f"{test.name}, test split")


def without_class(images: ImageSet, name: str) -> ImageSet:
    """``images`` without those of the class ``name``; the labels of the others stay.

    Raises:
        UserError: there is no such class.
    """
    if name not in images.class_names:
        raise UserError(
            f"{images.name} has no class {name!r} to hold out; it has "
            f"{', '.join(images.class_names)}"
        )
    kept = images.labels != images.class_names.index(name)
    return _subset(images, kept, f" without {name}")


def _subset(images: ImageSet, kept: Tensor, suffix: str) -> ImageSet:
    return replace(
        images,
        images=images.images[kept].contiguous(),
        labels=images.labels[kept],
        name=images.name + suffix,
    )


def anomaly_detection(trainer: Trainer, test: ImageSet, held_out: str) -> dict[str, float]:
    """How well a low score of the critic tells the class it never saw from the others.

    Returns:
        "auroc", "auprc" (average precision; the held-out class is positive), and "share" of
        positives, the auprc of guessing.
    """
    scores = critic_scores(trainer, test.images[:], test.labels)
    positive = test.labels == test.class_names.index(held_out)
    return {
        "auroc": float(roc_auc_score(positive.numpy(), -scores.numpy())),
        "auprc": float(average_precision_score(positive.numpy(), -scores.numpy())),
        "share": float(positive.double().mean()),
    }


def read_result(folder: Path) -> dict[str, Any] | None:
    """``folder/run.json``, or None while the run is not over."""
    file = folder / RESULT
    if not file.exists():
        return None
    content: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return content


if __name__ == "__main__":
    main()
