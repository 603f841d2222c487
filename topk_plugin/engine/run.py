"""A whole training run: steps, logs, pictures, evaluations, checkpoints, and stopping well."""

import math
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor
from tqdm import tqdm

from topk_plugin.base.notices import kept_warnings
from topk_plugin.base.run_log import RunLog
from topk_plugin.engine.checkpoint import LAST, Checkpoint, CheckpointFolder, RunProgress
from topk_plugin.engine.config.config import Config
from topk_plugin.engine.data.images import ImageSet
from topk_plugin.engine.diagnostics import Diagnostics
from topk_plugin.engine.divergence import NotFinite, describe_not_finite, not_finite
from topk_plugin.engine.latents import LatentSource
from topk_plugin.engine.methods.topk import k_of, selection_size, topk_of
from topk_plugin.engine.rejection import Rejection
from topk_plugin.engine.replicas import take_buffers_of_the_first
from topk_plugin.engine.run_folder import RunFolder
from topk_plugin.engine.sample_grid import class_grid, generate, save_grid
from topk_plugin.engine.stopping import Interrupted, StopRequest, Stopwatch
from topk_plugin.engine.trainer import Trainer
from topk_plugin.engine.updates import FiniteUpdates
from topk_plugin.evaluation.evaluator import Evaluator
from topk_plugin.evaluation.metrics import higher_is_better
from topk_plugin.gate import ranks
from topk_plugin.gate.monitor import TopKMonitor

# Seeds of what must be the same in every run of a comparison, whatever the run's own seed.
GRID_SEED = 2020
EVALUATION_SEED = 2021


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
        on_divergence: "stop" ends the run where its state is found not to be finite; "continue"
            trains on; "skip" belongs to a trainer that leaves out updates that are not finite, and
            ends the run after ``most_skipped`` of them in a row. In any case a state that is not
            finite is neither saved nor measured.
        most_skipped: updates of one network.
        diagnostics: steps between two looks at the critic and at what the gate changes
            (:mod:`topk_plugin.engine.diagnostics`); None: none.
        measured_at: steps after which samples are drawn and measured, in place of every
            ``save_freq``; step 0 and the end always are.
    """

    seed: int
    print_freq: int
    save_freq: int
    num_samples: int
    command: str
    checkpoint_freq: int | None = None
    on_divergence: Literal["stop", "continue", "skip"] = "stop"
    most_skipped: int = 50
    measured_at: tuple[int, ...] | None = None
    diagnostics: int | None = None

    def measures(self, step: int, total: int) -> bool:
        """Whether samples are drawn and measured after ``step`` of ``total``."""
        if step in (0, total) or step > total:
            return True
        if self.measured_at is not None:
            return step in self.measured_at
        return step % self.save_freq == 0


class TrainingRun:
    """Trains to ``OPTIMIZATION.total_steps`` in a run's folder.

    Of several processes all run alike, and the first one writes.

    Args:
        trainer: the GAN, fresh or restored from ``checkpoint``.
        images: the training images.
        folder: the run's folder; None in a process that writes nothing.
        evaluator: measures samples; None for no metrics.
        options: see there.
        checkpoint: what the run goes on from, or None.
        say: prints a line for people.
    """

    def __init__(
        self,
        trainer: Trainer,
        images: ImageSet,
        folder: RunFolder | None,
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
        self._say_only = say
        self._data = images.facts()
        self._images = images
        self._diagnostics: Diagnostics | None = None
        self._diagnosed = 0
        # -1: a run that was killed before its first checkpoint starts anew, its log too
        self._log: RunLog | None = None
        self._checkpoints: CheckpointFolder | None = None
        if folder is not None:
            self._log = RunLog(folder.path, -1 if checkpoint is None else checkpoint.step)
            self._log.hparams(self.config.to_dict(), () if evaluator is None else evaluator.keys)
            self._checkpoints = CheckpointFolder(folder.checkpoints)
        self._start_history_anew_if_measured_otherwise()
        self._monitor: TopKMonitor | None = None
        top_k = topk_of(trainer.terms)
        if top_k is not None and top_k.topk is not None:
            self._monitor = TopKMonitor(top_k.topk, self.config.DATA.num_classes)
        self._grid = class_grid(self.config, seed=GRID_SEED, device=trainer.device)
        self._stop = StopRequest()
        self._watch = Stopwatch()
        self._reported_step = trainer.step_count
        self._loss_was_finite = True
        self._skipped_before = 0
        self._diverged_at_step: int | None = None

    def run(self) -> dict[str, Any]:
        """Train to the end, or until the training diverges; returns what is in result.json.

        Raises:
            Interrupted: stopped by Ctrl-C, SIGTERM or SIGHUP; a checkpoint is saved, unless the
                training has diverged.
            KeyboardInterrupt: stopped by a second one, nothing saved since the last checkpoint.
            UserError: a file can't be written.
        """
        total = self.config.OPTIMIZATION.total_steps
        with (
            self._stop,
            kept_warnings(self._keep),
            tqdm(
                total=total,
                initial=self.trainer.step_count,
                unit="step",
                disable=None if self.folder is not None else True,
                smoothing=0.05,
            ) as bar,
        ):
            try:
                self._train(total, bar)
            except Interrupted:
                if self._is_finite():
                    self._save_checkpoint()
                raise
            else:
                if self._log is not None:
                    self._log.end_hparams()
            finally:
                if self._log is not None:
                    self._log.close()
                self.trainer.stream.release()
        result = self._result()
        if self.folder is not None:
            self.folder.write_result(result)
        return result

    def _say(self, line: str) -> None:
        """Print a line about what the run's reader should know, and keep it."""
        self._say_only(line)
        self._keep(line)

    def _keep(self, line: str) -> None:
        if self._log is not None:
            self._log.notice(line)

    # --- the loop --------------------------------------------------------------------------

    def _train(self, total: int, bar: Any) -> None:
        trainer, options = self.trainer, self.options
        self._watch.lap()
        while True:
            step = trainer.step_count
            due = options.measures(step, total)
            if due and self.progress.evaluated_step < step:
                if self._is_finite():
                    self._evaluate(step)
                if not self.diverged:
                    self._save_checkpoint()
                self._reported_step = step
                self._watch.lap()
            if step >= total or (self.diverged and options.on_divergence != "continue"):
                return
            self._stop_if_asked()
            losses = trainer.step()
            if self._monitor is not None:
                self._monitor.update()
            bar.update()
            step = trainer.step_count
            next_is_due = options.measures(step, total)
            if step % options.print_freq == 0 or next_is_due:
                self._report(step, losses, bar)
            if options.diagnostics is not None and step % options.diagnostics == 0:
                with self._watch.paused():
                    self._diagnose(step, options.diagnostics)
            often = options.checkpoint_freq
            if often is not None and step % often == 0 and not next_is_due:
                with self._watch.paused():
                    if self._is_finite():
                        self._save_checkpoint()

    def _stop_if_asked(self) -> None:
        """Stop here when this process, or another one of the training, was asked to."""
        if ranks.any_rank(self._stop.asked):
            raise Interrupted

    def _interruptible(self) -> AbstractContextManager[None]:
        """A signal ends what is in the block; with several processes, after it."""
        # in the middle, the others would wait for what this one was to do with them
        return self._stop.interruptible() if ranks.world_size() == 1 else nullcontext()

    def _report(self, step: int, losses: dict[str, Tensor], bar: Any) -> None:
        """Log the last step, and the pace since the last report."""
        # Reading the losses waits for the device, so that the time measured after it is whole.
        values = ranks.mean(torch.stack([loss.float() for loss in losses.values()])).tolist()
        scalars: dict[str, float] = dict(zip(losses, values, strict=True))
        steps, self._reported_step = step - self._reported_step, step
        seconds = self._watch.lap()
        self.progress.seconds += seconds
        rate = steps * self.trainer.images_per_step / seconds
        scalars["speed/images_per_second"] = rate
        if self._monitor is not None:
            scalars |= self._monitor.scalars()
        elif (k := k_of(self.trainer.terms)) is not None:
            scalars["topk/k"] = float(k)
        scalars |= {name: float(value) for name, value in self.trainer.scalars().items()}
        if self._log is not None:
            self._log.scalars(step, scalars)
        if not all(math.isfinite(value) for value in values):
            self._warn_of_the_loss(step)
        self._look_at_what_was_skipped(step)
        figures = {
            "G": f"{scalars['loss/generator']:.3f}",
            "D": f"{scalars['loss/discriminator']:.3f}",
        }
        if "topk/k" in scalars:
            figures["k"] = f"{scalars['topk/k']:.0f}/{selection_size(self.config)}"
        figures["img/s"] = f"{rate:,.0f}"
        bar.set_postfix(figures)
        if bar.disable:
            left = (self.config.OPTIMIZATION.total_steps - step) * self.trainer.images_per_step
            line = " ".join(f"{name} {value}" for name, value in figures.items())
            self._say_only(f"step {step:,}: {line} ETA {tqdm.format_interval(left / rate)}")

    def _diagnose(self, step: int, every: int) -> None:
        if self._diagnostics is None:
            self._diagnostics = Diagnostics(self.trainer, self._images, self.evaluator)
        values = self._diagnostics.measure()
        if self._log is not None:
            self._log.scalars(step, values)
        self._diagnosed += 1
        if self._diagnosed == 2:  # the first look also warms up
            seconds = values["diagnostics/seconds"]
            trained = self.progress.seconds / max(1, self._reported_step)
            share = seconds / (every * trained) if trained > 0 else math.nan
            self._say_only(
                f"diagnostics: {seconds:.2g} s each time, {share:.1%} of the training time at "
                f"every {every:,} steps"
            )

    def _evaluate(self, step: int) -> None:
        """Sample grid, histograms and metrics of this step."""
        sampler = self.trainer.sampler()
        take_buffers_of_the_first(sampler)
        batch_size = self.config.OPTIMIZATION.batch_size
        values: dict[str, float] = {}
        kept = None
        # Nothing is noted down yet, so that a run stopped in here is evaluated at this step again.
        try:
            with self._interruptible():
                images = generate(sampler, *self._grid, batch_size=batch_size)
                if self.evaluator is not None:
                    count, device = self.options.num_samples, self.trainer.device
                    values, kept = evaluate_generator(
                        *(sampler, self.config, self.evaluator, count, device),
                        judge=self.trainer.judge(),
                    )
        except NotFinite:
            self._note_divergence("the generator's images are not finite")
            return
        fakes = self._last_fakes()
        if self.folder is not None and self._log is not None:
            save_grid(self.folder.samples / f"step_{step:06d}.png", images)
            if self._monitor is not None and fakes is not None:
                self._log.histogram(step, "topk/scores", self._monitor.scores())
                picture = self._monitor.kept_vs_dropped(fakes)
                if picture is not None:
                    self._log.image(step, "topk/kept_vs_dropped", picture)
            if self.evaluator is not None:
                self._log.scalars(step, {f"metric/{name}": value for name, value in values.items()})
                text = ", ".join(f"{name} {value:.4g}" for name, value in values.items())
                tqdm.write(f"step {step:,}: {text}", file=sys.stderr)
        self.progress.evaluated_step = step
        if self.evaluator is not None:
            if kept is not None and self._log is not None:
                self._log.scalars(step, {"rejection/kept_share": kept})
            entry: dict[str, float] = {"step": step} | values
            self.progress.history.append(entry)
            if self._is_best(entry):
                self.progress.best = entry
                if self._checkpoints is not None:
                    self._checkpoints.save_best(self.trainer, **self._memory())

    def _last_fakes(self) -> Tensor | None:
        """What the gate saw last, of all processes where the selection was over all."""
        fakes = self.trainer.last_fakes
        if fakes is None or self._monitor is None:
            return None
        selected_among = len(self._monitor.topk.stats_of_last_call.mask)
        return fakes if selected_among == len(fakes) else ranks.gather_batch(fakes)

    # --- divergence ------------------------------------------------------------------------

    @property
    def diverged(self) -> bool:
        """Whether the training's state was found not to be finite."""
        return self._diverged_at_step is not None

    def _is_finite(self) -> bool:
        """Look at every tensor of the training's state; what has diverged stays so."""
        if not self.diverged:
            found = not_finite(self.trainer.state_dict())
            if ranks.any_rank(bool(found)):
                what = (
                    describe_not_finite(found)
                    if found
                    else "the state of another process is not finite"
                )
                self._note_divergence(what)
        return not self.diverged

    def _note_divergence(self, what: str) -> None:
        step = self.trainer.step_count
        self._diverged_at_step = step
        if self.folder is None:
            return
        kept = self.folder.checkpoints / LAST
        self._say(
            f"warning: the training has diverged: at step {step:,} {what}. It is neither measured "
            f"nor saved from here on{f'; {kept} is from before' if kept.exists() else ''}. A lower "
            "learning rate (OPTIMIZATION.g_lr, d_lr) may help"
        )

    def _warn_of_the_loss(self, step: int) -> None:
        """A loss that is not finite nearly always means weights that are not; once is enough."""
        if self._is_finite() and self._loss_was_finite:
            self._say(f"warning: a loss is not finite at step {step:,}; the weights still are")
        self._loss_was_finite = False

    def _look_at_what_was_skipped(self, step: int) -> None:
        """Say what is new, and end the run where nothing is applied any more."""
        updates = self.trainer.updates
        if not isinstance(updates, FiniteUpdates):
            return
        counts = {side: int(count) for side, count in updates.skipped.items()}
        total = sum(counts.values())
        if total > self._skipped_before:
            words = " and ".join(f"{count} of the {side}" for side, count in counts.items())
            self._say(
                f"warning: at step {step:,}, updates left out so far because their loss or "
                f"gradient was not finite: {words}"
            )
        self._skipped_before = total
        row, side = max((int(longest), side) for side, longest in updates.longest.items())
        updates.forget_rows()
        if row >= self.options.most_skipped and self._is_finite():
            self._save_checkpoint()
            self._diverged_at_step = step
            self._say(
                f"warning: the training has diverged: {row} updates of the {side} in a row had a "
                f"loss or gradient that is not finite, and none was applied. A checkpoint of step "
                f"{step:,} is saved, whose weights are finite. A lower learning rate "
                "(OPTIMIZATION.g_lr, d_lr) may help"
            )

    def _save_checkpoint(self) -> None:
        if self._checkpoints is not None:
            self._checkpoints.save_last(self.trainer, **self._memory())

    def _memory(self) -> dict[str, Any]:
        return {"seed": self.options.seed, "data": self._data, "progress": self.progress}

    # --- metrics and the result ------------------------------------------------------------

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
                "topk_accumulation": loss.topk_accumulation,
                "topk_every": loss.topk_every,
                "k_at_the_end": k_of(self.trainer.terms),
            }
        skipped = self.trainer.updates.state_dict()
        final = history[-1] if history and history[-1]["step"] == self.trainer.step_count else {}
        return {
            "status": "diverged" if self.diverged else "finished",
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
            "diverged_at_step": self._diverged_at_step,
            **({"skipped_updates": {k: int(v) for k, v in skipped.items()}} if skipped else {}),
            "top_k": top_k,
            "data": self._data,
            "training_seconds": round(self.progress.seconds, 1),
            "samples_by_rejection": self.trainer.judge() is not None,
            "command": self.options.command,
        }


def evaluate_generator(
    sampler: torch.nn.Module,
    config: Config,
    evaluator: Evaluator,
    num_samples: int,
    device: torch.device,
    *,
    judge: torch.nn.Module | None = None,
) -> tuple[dict[str, float], float | None]:
    """Metric values of ``num_samples`` images, from the same latents and labels every time.

    Several processes call alike, share the work, and get the values of one process.

    Args:
        judge: a critic to draw the images with by rejection; its latents are then further ones.

    Returns:
        The values, and the share of images that the judge kept.

    Raises:
        NotFinite: the generator has diverged.
    """
    source = LatentSource(config, seed=EVALUATION_SEED, device=device)
    latents, labels = source.latents(num_samples), source.labels(num_samples)
    kept = None
    if judge is None:
        images = generate(sampler, latents, labels, batch_size=config.OPTIMIZATION.batch_size)
    else:
        rejection = Rejection(sampler, judge, source, seed=EVALUATION_SEED)
        images, kept = rejection.draw(labels), rejection.kept_share
    layers = evaluator.layers(images)
    return ranks.of_the_first(lambda: evaluator.values(layers)), kept
