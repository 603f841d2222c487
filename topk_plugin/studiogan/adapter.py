"""StudioGAN's WORKER with top-k training and TensorBoard."""

import inspect
import math
import time
from collections.abc import Mapping
from typing import Any

from topk_plugin.base.errors import UserError
from topk_plugin.base.run_log import RunLog
from topk_plugin.gate import ranks as distributed
from topk_plugin.studiogan import acceleration
from topk_plugin.studiogan.drivers import GateDriver, SliceDriver
from topk_plugin.studiogan.flags import TopKFlags
from topk_plugin.studiogan.resume import STATE_KEY, Resumption
from topk_plugin.studiogan.swap import swapped
from topk_plugin.studiogan.wandb_bridge import WandbBridge

METHODS = (
    "sample_data_basket",
    "train_generator",
    "log_train_statistics",
    "visualize_fake_images",
    "save",
)


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

    accelerated = acceleration.is_wanted()

    class Worker(worker_class):
        _driver: GateDriver | SliceDriver | None = None
        _last_k: int | None = None  # of the last generator step
        _shown_k: int | None = None  # what `topk` is while StudioGAN logs
        _timed_step = 0
        _timed_at = 0.0

        def __init__(self, **kwargs: Any) -> None:
            resumed = resumption.resumed
            trains = kwargs["cfgs"].RUN.train  # StudioGAN's loader gives keywords
            if isinstance(module.wandb, WandbBridge) and trains and resumed is not None:
                module.wandb.resume_step = resumed.step
            super().__init__(**kwargs)
            if accelerated:
                acceleration.accelerate_worker(self)
            flags = TopKFlags.of(self.cfgs)
            if flags is None or not trains:
                return
            self._driver = GateDriver(flags, self) if flags.mode == "gate" else SliceDriver(flags)
            if resumed is not None:
                updates = self.OPTIMIZATION.g_updates_per_step
                self._driver.load(resumed, self.OPTIMIZATION.batch_size, updates)
            if self.global_rank == 0:
                self.logger.info(self._plan(flags, resumed.step if resumed is not None else 0))

        # StudioGAN's own k, which it sets and anneals itself; with top-k on it follows the
        # plugin's schedule, which is right after any resume and is never under 1.
        @property
        def topk(self) -> Any:
            if self._driver is None:
                return self._studiogan_k
            if self._shown_k is not None:
                return self._shown_k
            return self._driver.schedule.k(self._driver.progress, self.OPTIMIZATION.batch_size)

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
            with self._driver.generator_step(self, module.losses):
                loss = super().train_generator(current_step=current_step)
            self._last_k = used_k
            return loss

        def log_train_statistics(self, current_step: int, **losses: Any) -> None:
            # StudioGAN logs the k of the step just done; the schedule may have moved on since
            with swapped(self, "_shown_k", self._last_k):
                super().log_train_statistics(current_step=current_step, **losses)
            log = _run_log(module.wandb)
            if log is None:
                return
            scalars = self._speed(current_step)
            if isinstance(self._driver, GateDriver):
                scalars |= self._driver.monitor.scalars()
            elif self._driver is not None:
                assert self._last_k is not None
                scalars["topk/k"] = float(self._last_k)
                scalars["topk/fraction_kept"] = self._last_k / self.OPTIMIZATION.batch_size
            log.scalars(current_step + 1, scalars)

        def visualize_fake_images(self, *args: Any, **kwargs: Any) -> None:
            super().visualize_fake_images(*args, **kwargs)
            log, driver = _run_log(module.wandb), self._driver
            if log is None or not self.training or not isinstance(driver, GateDriver):
                return
            log.histogram(self.wandb_step, "topk/scores", driver.monitor.scores())
            picture = None
            if driver.fakes is not None:
                picture = driver.monitor.kept_vs_dropped(driver.fakes)
            if picture is not None:
                log.image(self.wandb_step, "topk/kept_vs_dropped", picture)

        def save(self, *args: Any, **kwargs: Any) -> None:
            resumed = resumption.resumed
            state: Mapping[str, Any]
            if self._driver is not None:
                state = self._driver.state_dict()
            elif resumed is not None and resumed.state is not None:
                state = resumed.state  # top-k is off for now; it may go on later
            else:
                super().save(*args, **kwargs)
                return
            original = module.misc.save_model

            def save_model(*args: Any, model: str, states: dict[str, Any], **kwargs: Any) -> None:
                if model == "D":
                    states = {**states, STATE_KEY: dict(state)}
                original(*args, model=model, states=states, **kwargs)

            with swapped(module.misc, "save_model", save_model):
                super().save(*args, **kwargs)

        def _plan(self, flags: TopKFlags, step: int) -> str:
            assert self._driver is not None
            batch = self.OPTIMIZATION.batch_size
            if flags.scope == "global":
                batch *= distributed.world_size()
            schedule, progress = flags.schedule, self._driver.progress
            line = (
                f"Top-k: {flags.mode}, policy {flags.policy}, scope {flags.scope}, normalize "
                f"{flags.normalize}; k is {schedule.k(progress, batch)} of {batch} now, "
                f"{schedule.k(math.inf, batch)} at its floor"
            )
            left = schedule.progress_to_floor - progress
            if not math.isfinite(left):
                return f"{line}, which it never reaches: LOSS.topk_gamma is 1."
            steps_each: float = len(self.train_dataloader)  # a step takes one batch of the loader
            if schedule.every != "epoch":
                steps_each = schedule.every / self.OPTIMIZATION.g_updates_per_step
            reached = step + math.ceil(math.ceil(max(left, 0)) * steps_each)
            line += f", reached at about step {reached} of {self.OPTIMIZATION.total_steps}."
            if reached > self.OPTIMIZATION.total_steps:
                line += " Lower LOSS.topk_gamma for k to reach it in this run."
            return line

        def _speed(self, current_step: int) -> dict[str, float]:
            """Real images a second since the last look, over all processes."""
            now = time.perf_counter()
            steps, seconds = current_step + 1 - self._timed_step, now - self._timed_at
            self._timed_step, self._timed_at = current_step + 1, now
            images = steps * self.OPTIMIZATION.basket_size * distributed.world_size()
            return {"speed/images_per_second": images / seconds}

    Worker.__name__ = Worker.__qualname__ = worker_class.__name__
    return Worker


def _run_log(wandb: Any) -> RunLog | None:
    return wandb.run_log if isinstance(wandb, WandbBridge) else None
