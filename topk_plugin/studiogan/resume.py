"""How far a run is, in StudioGAN's checkpoints.

StudioGAN keeps k as an absolute number a process, which means something else on another batch or
world size. The plugin adds how many generator updates and epochs are over to the critic's
checkpoint, under a key of its own that StudioGAN does not read. Where that is missing, StudioGAN's
own counters say it.
"""

import glob
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from topk_plugin.gate.progress import Progress
from topk_plugin.studiogan.fixes.weights_only import load_data

STATE_KEY = "topk_plugin"


@dataclass(frozen=True)
class Resumed:
    """What a checkpoint says of the run.

    Attributes:
        step, epoch: StudioGAN's own counters.
        state: what the plugin had saved; None in a checkpoint written without top-k or without
            the plugin.
    """

    step: int
    epoch: int
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
            _, step, epoch, *_ = result
            # A frozen critic (-freezeD) is the start of another training.
            fresh = arguments["RUN"].freezeD > -1
            state = None
            if not fresh:
                path = _critic_checkpoint(arguments["ckpt_dir"], arguments["load_best"])
                state = load_data(path, map_location="cpu").get(STATE_KEY)
            self.resumed = Resumed(step, epoch, state)
            return result

        ckpt.load_StudioGAN_ckpts = load_and_remember


def _critic_checkpoint(folder: str, best: bool) -> str:
    when = "best" if best else "current"
    return glob.glob(os.path.join(glob.escape(folder), f"model=D-{when}-weights-step=*.pth"))[0]


def progress_of(resumed: Resumed | None, updates_per_step: int) -> Progress:
    """How far a run is, with top-k switched on in all of it or not.

    k is what the schedule has for that; top-k that is switched on in the middle of a run starts
    where it would have been, as in the built-in trainer.

    Args:
        resumed: what the run goes on from; None for a new one.
        updates_per_step: generator updates that one of StudioGAN's steps takes.
    """
    if resumed is None:
        return Progress()
    if resumed.state is None:
        return Progress(steps=resumed.step * updates_per_step, epochs=resumed.epoch)
    progress = Progress()
    progress.load_state_dict(resumed.state)
    return progress
