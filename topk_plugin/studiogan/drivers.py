"""What happens to StudioGAN's generator step: the plugin's gate, or StudioGAN's own slice."""

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor

from topk_plugin.gate.monitor import TopKMonitor
from topk_plugin.gate.progress import Progress
from topk_plugin.gate.schedule import KSchedule
from topk_plugin.gate.topk import TopK
from topk_plugin.studiogan.flags import TopKFlags
from topk_plugin.studiogan.swap import swapped


def margin(output: Mapping[str, Any]) -> Tensor:
    """The score of a multi-hinge critic (MHGAN): the own class's logit over the best other one.

    It is what the generator's Crammer-Singer loss raises. ``adv_output``: [N, classes + 1];
    ``label``: [N]; returns [N].
    """
    logits, label = output["adv_output"].detach(), output["label"].unsqueeze(1)
    own = logits.gather(1, label).squeeze(1)
    others = logits.scatter(1, label, -torch.inf)
    return own - others.amax(1)


class GateDriver:
    """Runs StudioGAN's generator step with the gate at the critic's input and without its slice.

    Args:
        flags: checked flags.
        schedule: theirs.
        progress: of the run; moved here.
        worker: StudioGAN's WORKER, whose critic (with its parallel wrapper) is gated.
        state: of the checkpoint that the run goes on from, if it has one.
    """

    def __init__(
        self,
        flags: TopKFlags,
        schedule: KSchedule,
        progress: Progress,
        worker: Any,
        state: Mapping[str, Any] | None = None,
    ) -> None:
        self.schedule, self.progress = schedule, progress
        self.topk = TopK(
            schedule,
            policy=flags.policy,
            scope=flags.scope,
            normalize=flags.normalize,
            seed=worker.RUN.seed,
            progress=progress,
        )
        # a slice's state holds less than a gate's
        self.topk.load_state_dict({**self.topk.state_dict(), **(state or {})})
        multi_hinge = worker.LOSS.adv_loss == "MH"
        # the labels of a generator that is given none are noise: no keep rates of them
        conditional = worker.MODEL.g_cond_mtd != "W/O"
        self.topk.attach(
            worker.Dis,
            score=margin if multi_hinge else "adv_output",
            labels=1 if conditional else None,
        )
        self.monitor = TopKMonitor(self.topk, worker.DATA.num_classes if conditional else None)
        self.fakes: Tensor | None = None
        self._updates = 0
        self._in_generator_step = False
        worker.Dis.register_forward_pre_hook(self._remember_fakes)
        worker.OPTIMIZATION.g_optimizer.register_step_post_hook(self._after_update)

    @contextmanager
    def generator_step(self, worker: Any, losses: Any) -> Iterator[None]:
        """Around StudioGAN's ``train_generator``.

        Args:
            worker: StudioGAN's WORKER.
            losses: StudioGAN's module ``utils.losses``.
        """
        self._updates = 0
        self._in_generator_step = True
        with ExitStack() as stack:
            stack.callback(setattr, self, "_in_generator_step", False)
            stack.enter_context(swapped(worker.LOSS, "apply_topk", False))
            if worker.LOSS.apply_lo:
                # its critic calls steer the latents; they are not the scored batch
                original = losses.latent_optimise

                def ungated(*args: Any, **kwargs: Any) -> Any:
                    with self.topk.paused():
                        return original(*args, **kwargs)

                stack.enter_context(swapped(losses, "latent_optimise", ungated))
            stack.enter_context(self.topk.generator_step())
            yield
        if self._updates == 0 and not self.topk.acted:
            self.topk.end_step()  # warns, and says why
        if worker.global_rank == 0:
            self.monitor.update()

    def end_epoch(self) -> None:
        """One pass over the data is over."""
        self.progress.end_epoch()
        self.topk.end_epoch()

    def state_dict(self) -> dict[str, Any]:
        """For the critic's checkpoint."""
        return self.topk.state_dict()

    def _after_update(self, *_: Any) -> None:
        # StyleGAN's path length regularisation takes optimizer steps too, without the critic
        if self._in_generator_step and self.topk.acted:
            self.progress.end_step()
            self.topk.end_step()
            self._updates += 1

    def _remember_fakes(self, critic: Any, args: tuple[Any, ...]) -> None:
        if self._in_generator_step and args[0].requires_grad:
            self.fakes = args[0].detach()


class SliceDriver:
    """Leaves StudioGAN's slice in place and gives it a k that is right after any resume.

    Args:
        schedule: of k.
        progress: of the run; moved here.
    """

    def __init__(self, schedule: KSchedule, progress: Progress) -> None:
        self.schedule, self.progress = schedule, progress

    @contextmanager
    def generator_step(self, worker: Any, losses: Any) -> Iterator[None]:
        """Around StudioGAN's ``train_generator``."""
        yield
        self.progress.steps += worker.OPTIMIZATION.g_updates_per_step

    def end_epoch(self) -> None:
        """One pass over the data is over."""
        self.progress.end_epoch()

    def state_dict(self) -> dict[str, Any]:
        """For the critic's checkpoint."""
        return {**self.progress.state_dict()}


class OffDriver:
    """Carries top-k's state through a part of a run that has it switched off.

    Args:
        progress: of the run; moved here.
        state: of the checkpoint that the run goes on from.
    """

    def __init__(self, progress: Progress, state: Mapping[str, Any]) -> None:
        self.progress, self._state = progress, dict(state)

    @contextmanager
    def generator_step(self, worker: Any, losses: Any) -> Iterator[None]:
        """Around StudioGAN's ``train_generator``."""
        yield
        self.progress.steps += worker.OPTIMIZATION.g_updates_per_step

    def end_epoch(self) -> None:
        """One pass over the data is over."""
        self.progress.end_epoch()

    def state_dict(self) -> dict[str, Any]:
        """For the critic's checkpoint."""
        return {**self._state, **self.progress.state_dict()}
