"""A whole training run: steps, logs, pictures, evaluations, checkpoints, and stopping well."""

import math
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from topk_plugin.base.run_log import RunLog
from topk_plugin.engine.checkpoint import BEST, LAST, Checkpoint, RunProgress, save_checkpoint
from topk_plugin.engine.config.config import Config
from topk_plugin.engine.data.images import ImageSet
from topk_plugin.engine.latents import LatentSource
from topk_plugin.engine.methods.topk import k_of, topk_of
from topk_plugin.engine.run_folder import RunFolder
from topk_plugin.engine.sample_grid import class_grid, generate, save_grid
from topk_plugin.engine.trainer import Trainer
from topk_plugin.evaluation.evaluator import Evaluator
from topk_plugin.evaluation.metrics import higher_is_better
from topk_plugin.gate.monitor import TopKMonitor

# Seeds of what must be the same in every run of a comparison, whatever the run's own seed.
GRID_SEED = 2020
EVALUATION_SEED = 2021


class Interrupted(Exception):
    """The user or the system asked the run to stop; a checkpoint is saved."""


@dataclass(frozen=True)
class RunOptions:
    """What the command line decides, beside the config.

    Attributes:
        seed: the run's seed.
        print_freq: steps between two log entries.
        save_freq: steps between two checkpoints, sample grids and evaluations.
        num_samples: generated images of an evaluation.
        command: the command as typed, for the records.
        checkpoint_freq: steps between two checkpoints, where they are wanted more often.
    """

    seed: int
    print_freq: int
    save_freq: int
    num_samples: int
    command: str
    checkpoint_freq: int | None = None


class TrainingRun:
    """Trains to ``OPTIMIZATION.total_steps`` in a run's folder.

    Args:
        trainer: the GAN, fresh or restored from ``checkpoint``.
        images: the training images.
        folder: the run's folder.
        evaluator: measures samples; None for no metrics.
        options: see there.
        checkpoint: what the run goes on from, or None.
        say: prints a line for people.
    """

    def __init__(
        self,
        trainer: Trainer,
        images: ImageSet,
        folder: RunFolder,
        evaluator: Evaluator | None,
        options: RunOptions,
        *,
        checkpoint: Checkpoint | None,
        say: Callable[[str], None],
    ) -> None:
        self.trainer = trainer
        self.config: Config = trainer.config
        self.folder = folder
        self.evaluator = evaluator
        self.options = options
        self.progress = RunProgress() if checkpoint is None else checkpoint.progress
        self._say = say
        self._data = images.facts()
        self._start_history_anew_if_measured_otherwise()
        # -1: a run that was killed before its first checkpoint starts anew, its log too
        self._log = RunLog(folder.path, -1 if checkpoint is None else checkpoint.step)
        self._monitor: TopKMonitor | None = None
        top_k = topk_of(trainer.terms)
        if top_k is not None and top_k.topk is not None:
            self._monitor = TopKMonitor(top_k.topk, self.config.DATA.num_classes)
        self._grid = class_grid(self.config, seed=GRID_SEED, device=trainer.device)
        self._stop_asked = False
        self._may_stop_now = False
        self._in_step = False
        self._mark = time.perf_counter()

    def run(self) -> dict[str, Any]:
        """Train to the end; returns what is in result.json.

        Raises:
            Interrupted: stopped by Ctrl-C or SIGTERM, with a checkpoint saved.
            UserError: a file can't be written.
        """
        total = self.config.OPTIMIZATION.total_steps
        trainer = self.trainer
        with (
            self._stoppable(),
            tqdm(
                total=total, initial=trainer.step_count, unit="step", disable=None, smoothing=0.05
            ) as bar,
        ):
            try:
                self._train(total, bar)
            except KeyboardInterrupt:
                self._log.close()
                if self._in_step:  # half of a step is nothing to go on from
                    raise
                self._save_checkpoint()
                raise Interrupted from None
        self._log.close()
        result = self._result()
        self.folder.write_result(result)
        return result

    # --- the loop --------------------------------------------------------------------------

    def _train(self, total: int, bar: Any) -> None:
        trainer, options = self.trainer, self.options
        printed_step = trainer.step_count
        self._mark = time.perf_counter()
        while True:
            step = trainer.step_count
            due = step % options.save_freq == 0 or step >= total
            if due and self.progress.evaluated_step < step:
                self._look(step)
                self._save_checkpoint()
                printed_step, self._mark = step, time.perf_counter()
            if step >= total:
                return
            if self._stop_asked:
                raise KeyboardInterrupt
            self._in_step = True
            losses = trainer.step()
            self._in_step = False
            if self._monitor is not None:
                self._monitor.update()
            bar.update()
            step = trainer.step_count
            next_is_due = step % options.save_freq == 0 or step >= total
            if step % options.print_freq == 0 or next_is_due:
                self._report(step, losses, step - printed_step, bar)
                printed_step = step
            often = options.checkpoint_freq
            if often is not None and step % often == 0 and not next_is_due:
                started = time.perf_counter()
                self._save_checkpoint()
                self._mark += time.perf_counter() - started  # no part of the training's time

    def _report(self, step: int, losses: dict[str, Tensor], steps: int, bar: Any) -> None:
        """Log the last step; ``steps``: how many were done since the last report."""
        # Reading the losses waits for the device, so that the time measured after it is whole.
        values = torch.stack([loss.float() for loss in losses.values()]).tolist()
        scalars: dict[str, float] = dict(zip(losses, values, strict=True))
        now = time.perf_counter()
        seconds, self._mark = now - self._mark, now
        self.progress.seconds += seconds
        rate = steps * self.trainer.images_per_step / seconds
        scalars["speed/images_per_second"] = rate
        if self._monitor is not None:
            scalars |= self._monitor.scalars()
        elif (k := k_of(self.trainer.terms)) is not None:
            scalars["topk/k"] = float(k)
        scalars |= {name: float(value) for name, value in self.trainer.scalars().items()}
        self._log.scalars(step, scalars)
        diverged = not all(math.isfinite(value) for value in values)
        if diverged and self.progress.diverged_at_step is None:
            self.progress.diverged_at_step = step
            self._say(
                f"warning: a loss is not finite at step {step:,}; the training has diverged (a "
                "lower learning rate or an earlier checkpoint may help)"
            )
        shown = {
            "G": f"{scalars['loss/generator']:.3f}",
            "D": f"{scalars['loss/discriminator']:.3f}",
        }
        if "topk/k" in scalars:
            shown["k"] = f"{scalars['topk/k']:.0f}/{self.config.OPTIMIZATION.batch_size}"
        shown["img/s"] = f"{rate:,.0f}"
        bar.set_postfix(shown)
        if bar.disable:
            left = (self.config.OPTIMIZATION.total_steps - step) * self.trainer.images_per_step
            line = " ".join(f"{name} {value}" for name, value in shown.items())
            self._say(f"step {step:,}: {line} ETA {tqdm.format_interval(left / rate)}")

    def _look(self, step: int) -> None:
        """Sample grid, histograms and metrics of this step."""
        sampler = self.trainer.sampler()
        batch_size = self.config.OPTIMIZATION.batch_size
        values: dict[str, float] = {}
        # Only here may Ctrl-C act at once: nothing is noted down yet, so that a resumed run looks
        # at this step again.
        with self._interruptible():
            images = generate(sampler, *self._grid, batch_size=batch_size)
            if self.evaluator is not None:
                count, device = self.options.num_samples, self.trainer.device
                values = evaluate_generator(sampler, self.config, self.evaluator, count, device)
        save_grid(self.folder.samples / f"step_{step:06d}.png", images)
        if self._monitor is not None and self.trainer.last_fakes is not None:
            self._log.histogram(step, "topk/scores", self._monitor.scores())
            picture = self._monitor.kept_vs_dropped(self.trainer.last_fakes)
            if picture is not None:
                self._log.image(step, "topk/kept_vs_dropped", picture)
        self.progress.evaluated_step = step
        if self.evaluator is not None:
            self._log.scalars(step, {f"metric/{name}": value for name, value in values.items()})
            shown = ", ".join(f"{name} {value:.4g}" for name, value in values.items())
            tqdm.write(f"step {step:,}: {shown}", file=sys.stderr)
            entry: dict[str, float] = {"step": step} | values
            self.progress.history.append(entry)
            if self._is_best(entry):
                self.progress.best = entry
                self._save_checkpoint(BEST)

    def _is_best(self, entry: dict[str, float]) -> bool:
        assert self.evaluator is not None
        name, best = self.evaluator.keys[0], self.progress.best
        if best is None:
            return True
        sign = -1 if higher_is_better(name) else 1
        return sign * entry[name] < sign * best[name]

    def _start_history_anew_if_measured_otherwise(self) -> None:
        """Values of two extractors, references or sample counts must not stand in one list."""
        if self.evaluator is None:
            return
        facts = self.evaluator.describe(self.options.num_samples)
        names = ("extractor", "weights_sha256", "reference_fingerprint", "samples")
        measured_with = {name: facts[name] for name in names} | {"keys": list(self.evaluator.keys)}
        if self.progress.history and self.progress.measured_with != measured_with:
            self._say(
                "note: metrics are now measured otherwise than before the checkpoint, so their "
                "history and the best checkpoint start anew"
            )
            self.progress.history, self.progress.best = [], None
            self.progress.evaluated_step = -1
        self.progress.measured_with = measured_with

    def _save_checkpoint(self, name: str = LAST) -> None:
        save_checkpoint(
            self.folder.checkpoints / name,
            self.trainer,
            seed=self.options.seed,
            data=self._data,
            progress=self.progress,
        )

    def _result(self) -> dict[str, Any]:
        loss, history = self.config.LOSS, self.progress.history
        top_k: dict[str, Any] = {"apply_topk": loss.apply_topk}
        if loss.apply_topk:
            top_k |= {
                "topk_gamma": loss.topk_gamma,
                "topk_nu": loss.topk_nu,
                "topk_mode": loss.topk_mode,
                "topk_policy": loss.topk_policy,
                "topk_normalize": loss.topk_normalize,
                "topk_every": loss.topk_every,
                "k_at_the_end": k_of(self.trainer.terms),
            }
        final = history[-1] if history and history[-1]["step"] == self.trainer.step_count else {}
        return {
            "steps": self.trainer.step_count,
            "epochs": self.trainer.stream.epoch,
            "seed": self.options.seed,
            "precision": self.trainer.precision,
            "metrics": {name: value for name, value in final.items() if name != "step"},
            "best": self.progress.best,
            "history": history,
            "measured_with": (
                self.progress.measured_with
                if self.evaluator is None
                else self.evaluator.describe(self.options.num_samples)
            ),
            "diverged_at_step": self.progress.diverged_at_step,
            "top_k": top_k,
            "data": self._data,
            "training_seconds": round(self.progress.seconds, 1),
            "command": self.options.command,
        }

    # --- stopping --------------------------------------------------------------------------

    @contextmanager
    def _stoppable(self) -> Iterator[None]:
        """Let Ctrl-C, SIGTERM and SIGHUP end the run after the step under way, state whole."""
        # SIGHUP: the terminal was closed
        numbers = [signal.SIGINT, signal.SIGTERM, getattr(signal, "SIGHUP", signal.SIGTERM)]
        previous = {number: signal.signal(number, self._ask_to_stop) for number in set(numbers)}
        try:
            yield
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)

    def _ask_to_stop(self, number: int, frame: FrameType | None) -> None:
        if self._may_stop_now or self._stop_asked:
            raise KeyboardInterrupt
        self._stop_asked = True
        tqdm.write("stopping after this step (again to stop at once)", file=sys.stderr)

    @contextmanager
    def _interruptible(self) -> Iterator[None]:
        """Nothing in here changes the training state: stop at once when asked."""
        self._may_stop_now = True
        try:
            if self._stop_asked:
                raise KeyboardInterrupt
            yield
        finally:
            self._may_stop_now = False


def evaluate_generator(
    sampler: torch.nn.Module,
    config: Config,
    evaluator: Evaluator,
    num_samples: int,
    device: torch.device,
) -> dict[str, float]:
    """Metric values of ``num_samples`` images, from the same latents and labels every time."""
    source = LatentSource(config, seed=EVALUATION_SEED, device=device)
    latents, labels = source.latents(num_samples), source.labels(num_samples)
    images = generate(sampler, latents, labels, batch_size=config.OPTIMIZATION.batch_size)
    return evaluator.evaluate(images)


def has_run(folder: Path) -> bool:
    """Whether the folder holds a run already, which a new one must not overwrite."""
    return any((folder / name).exists() for name in ("config.yaml", "checkpoints/last.pt"))
