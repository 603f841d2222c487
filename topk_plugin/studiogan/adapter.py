"""StudioGAN's WORKER with top-k training and TensorBoard."""

import inspect
import time
from typing import TYPE_CHECKING, Any

from topk_plugin.base.errors import UserError
from topk_plugin.base.run_log import RunLog
from topk_plugin.gate import ranks as distributed
from topk_plugin.gate.progress import Progress
from topk_plugin.gate.schedule import KSchedule
from topk_plugin.studiogan import acceleration
from topk_plugin.studiogan.divergence_watch import DivergenceWatch
from topk_plugin.studiogan.drivers import GateDriver, OffDriver, SliceDriver
from topk_plugin.studiogan.flags import TopKFlags
from topk_plugin.studiogan.plan_line import plan_line
from topk_plugin.studiogan.resume import STATE_KEY, Resumption, progress_of
from topk_plugin.studiogan.run_facts import (
    TRAINED_BY,
    NoticeHandler,
    class_names_of,
    settings_of,
)
from topk_plugin.studiogan.swap import swapped
from topk_plugin.studiogan.wandb_bridge import WandbBridge

METHODS = (
    "sample_data_basket",
    "train_generator",
    "log_train_statistics",
    "visualize_fake_images",
    "save",
)

# What the methods below build on is StudioGAN's class, which is known once StudioGAN is imported.
_Base: Any = Any if TYPE_CHECKING else object


def adapted_worker(worker_class: Any, module: Any, resumption: Resumption) -> Any:
    """A subclass of StudioGAN's ``WORKER``, which is what its ``loader`` makes instead.

    With ``LOSS.apply_topk: False`` it trains as the original does, bit for bit.

    Args:
        worker_class: ``WORKER``.
        module: StudioGAN's module ``worker``, through which the class calls the others.
        resumption: what was loaded from a checkpoint.

    Raises:
        UserError: the class lacks what the adapter builds on: another version of StudioGAN; or
            ``$TOPK_PLUGIN_ACCELERATE`` has an unknown value.
    """
    missing = [name for name in METHODS if not callable(getattr(worker_class, name, None))]
    if missing:
        raise UserError(
            f"{inspect.getsourcefile(worker_class)}: WORKER has no {', '.join(missing)}; the "
            "adapter is made for PyTorch-StudioGAN at commit 947b35e (topk-plugin studiogan clone)"
        )
    members = {
        "_studiogan": module,
        "_resumption": resumption,
        "_accelerated": acceleration.is_wanted(),
    }
    return type(worker_class.__name__, (TopKWorker, worker_class), members)


class TopKWorker(_Base):
    """What the adapter does around the methods of StudioGAN's ``WORKER``, the class after it."""

    # given by adapted_worker()
    _studiogan: Any
    _resumption: Resumption
    _accelerated: bool

    _driver: GateDriver | SliceDriver | OffDriver | None = None
    _last_k: int | None = None  # of the last generator step
    _shown_k: int | None = None  # what `topk` is while StudioGAN logs
    _timed_step = 0
    _timed_at = 0.0

    def __init__(self, **kwargs: Any) -> None:
        resumed = self._resumption.resumed
        trains = kwargs["cfgs"].RUN.train  # StudioGAN's loader gives keywords
        wandb = self._studiogan.wandb
        if isinstance(wandb, WandbBridge) and trains and resumed is not None:
            wandb.resume_step = resumed.step
        super().__init__(**kwargs)
        if trains and self._run_log is not None:
            self._describe_run(self._run_log)
        if self.global_rank == 0:
            self._divergence = DivergenceWatch(self.logger)
            if resumed is not None:
                self._divergence.look_at_networks(self, resumed.step)
        if self._accelerated:
            acceleration.accelerate_worker(self)
        flags = TopKFlags.of(self.cfgs)
        if not trains:
            return
        state = None if resumed is None else resumed.state
        progress = progress_of(resumed, self.OPTIMIZATION.g_updates_per_step)
        if flags is None:
            self._driver = None if state is None else OffDriver(progress, state)
            return
        schedule = flags.schedule(self._steps_per_epoch)
        if flags.mode == "gate":
            self._driver = GateDriver(flags, schedule, progress, self, state)
        else:
            self._driver = SliceDriver(schedule, progress)
        if self.global_rank == 0:
            step = resumed.step if resumed is not None else 0
            self.logger.info(self._plan(flags, schedule, progress, step))

    # StudioGAN's own k, which it sets and anneals itself; with top-k on it follows the plugin's
    # schedule, which is right after any resume and is never under 1.
    @property
    def topk(self) -> Any:
        driver = self._driver
        if driver is None or isinstance(driver, OffDriver):
            return self._studiogan_k
        if self._shown_k is not None:
            return self._shown_k
        return driver.schedule.k(driver.progress.of(driver.schedule), self.OPTIMIZATION.batch_size)

    @topk.setter
    def topk(self, value: Any) -> None:
        self._studiogan_k = value

    def sample_data_basket(self) -> Any:
        before = self.epoch_counter
        basket = super().sample_data_basket()
        if self._driver is not None:
            for _ in range(self.epoch_counter - before):
                self._driver.end_epoch()
        return basket

    def train_generator(self, current_step: int) -> Any:
        if self._timed_at == 0.0:
            self._timed_step, self._timed_at = current_step, time.perf_counter()
        if self._driver is None:
            return super().train_generator(current_step=current_step)
        used_k = self.topk
        with self._driver.generator_step(self, self._studiogan.losses):
            loss = super().train_generator(current_step=current_step)
        self._last_k = used_k
        return loss

    def log_train_statistics(self, current_step: int, **losses: Any) -> None:
        # StudioGAN logs the k of the step just done; the schedule may have moved on since
        with swapped(self, "_shown_k", self._last_k):
            super().log_train_statistics(current_step=current_step, **losses)
        self._divergence.look_at_losses(losses, current_step + 1)
        log = self._run_log
        if log is None:
            return
        scalars = self._speed(current_step)
        if isinstance(self._driver, GateDriver):
            scalars |= self._driver.monitor.scalars()
        elif isinstance(self._driver, SliceDriver):
            assert self._last_k is not None
            scalars["topk/k"] = float(self._last_k)
            scalars["topk/fraction_kept"] = self._last_k / self.OPTIMIZATION.batch_size
        log.scalars(current_step + 1, scalars)

    def visualize_fake_images(self, *args: Any, **kwargs: Any) -> None:
        super().visualize_fake_images(*args, **kwargs)
        log, driver = self._run_log, self._driver
        if log is None or not self.training or not isinstance(driver, GateDriver):
            return
        log.histogram(self.wandb_step, "topk/scores", driver.monitor.scores())
        picture = None
        if driver.fakes is not None:
            picture = driver.monitor.kept_vs_dropped(driver.fakes)
        if picture is not None:
            log.image(self.wandb_step, "topk/kept_vs_dropped", picture)

    def save(self, step: int, is_best: bool) -> None:
        self._divergence.look_at_networks(self, step)
        if self._driver is None:
            super().save(step=step, is_best=is_best)
            return
        state, original = self._driver.state_dict(), self._studiogan.misc.save_model

        def save_model(*args: Any, model: str, states: dict[str, Any], **kwargs: Any) -> None:
            if model == "D":
                states = {**states, STATE_KEY: state}
            original(*args, model=model, states=states, **kwargs)

        with swapped(self._studiogan.misc, "save_model", save_model):
            super().save(step=step, is_best=is_best)

    def _describe_run(self, log: RunLog) -> None:
        log.describe(
            settings_of(self.cfgs),
            class_names=class_names_of(self.train_dataloader),
            trained_by=TRAINED_BY,
        )
        self.logger.addHandler(NoticeHandler(log.notice))

    @property
    def _run_log(self) -> RunLog | None:
        wandb = self._studiogan.wandb
        return wandb.run_log if isinstance(wandb, WandbBridge) else None

    @property
    def _steps_per_epoch(self) -> float:
        # the critic takes one batch of the loader a step, feature matching one more each time
        matching = self.OPTIMIZATION.g_updates_per_step * self.OPTIMIZATION.acml_steps
        return len(self.train_dataloader) / (1 + matching * self.LOSS.apply_fm)

    def _plan(self, flags: TopKFlags, schedule: KSchedule, progress: Progress, step: int) -> str:
        batch = self.OPTIMIZATION.batch_size
        if flags.scope == "global":
            batch *= distributed.world_size()
        steps_each = self._steps_per_epoch
        if flags.every != "epoch":
            steps_each = flags.every / self.OPTIMIZATION.g_updates_per_step
        return plan_line(
            flags,
            schedule,
            progress=progress.of(schedule),
            batch_size=batch,
            step=step,
            total_steps=self.OPTIMIZATION.total_steps,
            steps_each=steps_each,
        )

    def _speed(self, current_step: int) -> dict[str, float]:
        """Real images a second since the last look, over all processes."""
        now = time.perf_counter()
        steps, seconds = current_step + 1 - self._timed_step, now - self._timed_at
        self._timed_step, self._timed_at = current_step + 1, now
        images = steps * self.OPTIMIZATION.basket_size * distributed.world_size()
        return {"speed/images_per_second": images / seconds}
