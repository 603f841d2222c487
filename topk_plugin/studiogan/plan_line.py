"""What top-k is going to do in a run, as one line for StudioGAN's log."""

import math
from dataclasses import replace

from topk_plugin.gate.schedule import KSchedule
from topk_plugin.studiogan.flags import TopKFlags


def plan_line(
    flags: TopKFlags,
    schedule: KSchedule,
    *,
    progress: int,
    batch_size: int,
    step: int,
    total_steps: int,
    steps_each: float,
) -> str:
    """Where k is, where it goes, and when.

    Args:
        flags: of the config.
        schedule: theirs.
        progress: epochs, or blocks of generator updates, that are over.
        batch_size: of the batch that the selection is made in.
        step: StudioGAN's steps that are over.
        total_steps: of the run.
        steps_each: StudioGAN's steps in an epoch, or in a block.
    """
    lowest = schedule.lowest_k(batch_size)
    unit = "epochs" if schedule.every == "epoch" else f"blocks of {schedule.every} updates"
    line = (
        f"Top-k: {flags.mode}, policy {flags.policy}, scope {flags.scope}, normalize "
        f"{flags.normalize}; k is {schedule.k(progress, batch_size)} of {batch_size} now (after "
        f"{progress} {unit})"
    )
    if lowest == batch_size:
        return f"{line} and always: top-k does nothing here. {_remedy(schedule, batch_size)}"

    def at(goal: float) -> int:
        return step + math.ceil((goal - progress) * steps_each)

    remedies = []
    floor_from = schedule.progress_to_lowest_k(batch_size)
    if floor_from > progress:
        line += f", {lowest} at its floor from about step {at(floor_from)}"
        if at(floor_from) > total_steps:
            remedies.append("Lower LOSS.topk_gamma for k to reach its floor in this run.")
    elif schedule.release_from is None or schedule.release_from > progress:
        line += ", its floor"
    if schedule.release_from is not None and schedule.release_to is not None:
        if schedule.release_to <= progress:
            line += ", released"
        else:
            start = at(max(schedule.release_from, progress))
            line += f", back to {batch_size} from step {start} to {at(schedule.release_to)}"
        if at(schedule.release_from) > total_steps:
            remedies.append("Lower LOSS.topk_release_from for k to be released in this run.")
    return " ".join([f"{line}; the run ends at step {total_steps}.", *remedies])


def _remedy(schedule: KSchedule, batch_size: int) -> str:
    """For a schedule that drops nothing."""
    if schedule.gamma == 1:
        return "Lower LOSS.topk_gamma, which is 1."
    if replace(schedule, release_from=None, release_to=None).lowest_k(batch_size) < batch_size:
        return "Raise LOSS.topk_release_from: k is released before it falls."
    return "Lower LOSS.topk_nu, or enlarge the batch."
