"""How far k had fallen, in StudioGAN's checkpoints.

StudioGAN keeps k as an absolute number a process, which means something else on another batch or
world size. The plugin adds how many steps and epochs are over to the critic's checkpoint, under a
key of its own that StudioGAN does not read.
"""

import glob
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from topk_plugin.gate.schedule import KSchedule
from topk_plugin.studiogan.fixes.weights_only import load_data

STATE_KEY = "topk_plugin"


@dataclass(frozen=True)
class Resumed:
    """What a checkpoint says of the schedule.

    Attributes:
        step, epoch: StudioGAN's own counters.
        k: StudioGAN's own k; "initialize" where it has none.
        state: what the plugin had saved; None in a checkpoint written without top-k or without
            the plugin.
    """

    step: int
    epoch: int
    k: int | float | str
    state: Mapping[str, Any] | None


class Resumption:
    """Remembers what StudioGAN loaded; one for each process."""

    def __init__(self) -> None:
        self.resumed: Resumed | None = None

    def watch(self, ckpt: Any) -> None:
        """Wrap ``load_StudioGAN_ckpts`` of StudioGAN's module ``utils.ckpt``."""
        original: Callable[..., Any] = ckpt.load_StudioGAN_ckpts

        def load_and_remember(**arguments: Any) -> Any:
            result = original(**arguments)
            _, step, epoch, k, *_ = result
            # A frozen critic (-freezeD) is the start of another training.
            fresh = arguments["RUN"].freezeD > -1
            state = None
            if not fresh:
                path = _critic_checkpoint(arguments["ckpt_dir"], arguments["load_best"])
                state = load_data(path, map_location="cpu").get(STATE_KEY)
            self.resumed = Resumed(step, epoch, k, state)
            return result

        ckpt.load_StudioGAN_ckpts = load_and_remember


def _critic_checkpoint(folder: str, best: bool) -> str:
    when = "best" if best else "current"
    return glob.glob(os.path.join(glob.escape(folder), f"model=D-{when}-weights-step=*.pth"))[0]


def epochs_without_state(resumed: Resumed, schedule: KSchedule, batch_size: int) -> int:
    """How many epochs k had fallen for, judged from StudioGAN's own numbers.

    That is the number of epochs, unless top-k was off so far: then StudioGAN has kept k at the
    whole batch, as an integer, and k starts to fall now, as it does in StudioGAN. An integer k
    that is not today's batch counts as one at the floor once the floor's epoch is past: whether
    it was the whole of another batch, its checkpoint does not say.

    Args:
        resumed: of a checkpoint without the plugin's state.
        schedule: the one to go on with, by epochs.
        batch_size: of a process now.
    """
    if isinstance(resumed.k, str):  # "initialize": an old checkpoint, or -freezeD
        return 0
    # StudioGAN's k is a float while it falls, and an integer before and at the floor.
    falling = isinstance(resumed.k, float)
    could_be_at_floor = resumed.epoch >= schedule.progress_to_floor
    if not falling and (resumed.k == batch_size or not could_be_at_floor):
        return 0
    return resumed.epoch
