"""What top-k is going to do in a run, as one line for StudioGAN's log."""

import bisect
import math

from topk_plugin.gate.schedule import KSchedule
from topk_plugin.studiogan.flags import TopKFlags


def plan_line(
    flags: TopKFlags,
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
        progress: epochs, or blocks of generator updates, that are over.
        batch_size: of the batch that the selection is made in.
        step: StudioGAN's steps that are over.
        total_steps: of the run.
        steps_each: StudioGAN's steps in an epoch, or in a block.
    """
    schedule = flags.schedule
    now, floor = schedule.k(progress, batch_size), schedule.lowest_k(batch_size)
    unit = "epochs" if schedule.every == "epoch" else f"blocks of {schedule.every} updates"
    line = (
        f"Top-k: {flags.mode}, policy {flags.policy}, scope {flags.scope}, normalize "
        f"{flags.normalize}; k is {now} of {batch_size} now (after {progress} {unit}), "
        f"{floor} at its floor"
    )
    if floor == batch_size:
        lower = "topk_gamma, which is 1" if schedule.gamma == 1 else "topk_nu, or enlarge the batch"
        return f"{line}: top-k does nothing here. Lower LOSS.{lower}."
    reached = progress_to_smallest_k(schedule, batch_size)
    if reached <= progress:
        return f"{line}, reached."
    reached_at = step + math.ceil((reached - progress) * steps_each)
    line += f", reached at about step {reached_at} of {total_steps}."
    if reached_at > total_steps:
        line += " Lower LOSS.topk_gamma for k to reach it in this run."
    return line


def progress_to_smallest_k(schedule: KSchedule, batch_size: int) -> int:
    """Progress from which k is the smallest that it gets, for a gamma under 1.

    k is a whole number, and may be there before the fraction is at ``nu``.
    """
    last = math.ceil(schedule.progress_to_floor)
    floor = schedule.lowest_k(batch_size)
    return bisect.bisect_left(range(last), -floor, key=lambda p: -schedule.k(p, batch_size))
