"""What a run is going to do, said before it does it."""

import math
from dataclasses import replace

import torch

from topk_plugin.base.environment import describe_cpu
from topk_plugin.engine.config.config import Config
from topk_plugin.engine.evidence import describe_evidence
from topk_plugin.engine.methods.registry import methods_on, needs_of
from topk_plugin.engine.methods.topk import schedule_of, selection_size
from topk_plugin.engine.optimizers import describe_learning_rates
from topk_plugin.engine.trainer import Trainer, images_per_step
from topk_plugin.gate.schedule import KSchedule, gamma_to_reach
from topk_plugin.ops.dispatch import describe as describe_ops


def describe_trainer(trainer: Trainer, *, seed: int, compiled: bool) -> list[str]:
    """Lines on the networks, the device, and what runs otherwise there than asked for."""
    model, device = trainer.config.MODEL, trainer.device
    networks = (trainer.generator, trainer.critic)
    millions = [sum(p.numel() for p in network.parameters()) / 1e6 for network in networks]
    lines = [
        f"model: {model.backbone} {model.g_cond_mtd}/{model.d_cond_mtd}, generator "
        f"{millions[0]:.2f} M and critic {millions[1]:.2f} M parameters, "
        f"{trainer.precision}{', compiled' if compiled else ''}, seed {seed}",
        f"device: {_describe_device(device)}",
    ]
    if needs_of(trainer.config).second_derivatives:
        if compiled:
            lines.append(
                "note: --compile leaves the critic as it is, since its gradient is penalised "
                "(LOSS.apply_gp, apply_r1_reg) and compiled code has no second derivative"
            )
        if trainer.precision == "bf16" and device.type == "cpu":
            lines.append(
                "note: on a CPU the critic's update stays in fp32, since its gradient is penalised "
                "(LOSS.apply_gp, apply_r1_reg) and bf16's second derivatives are wrong there"
            )
    return [*lines, describe_ops(device)]


def _describe_device(device: torch.device) -> str:
    if device.type == "cuda":
        return f"cuda, {torch.cuda.get_device_name(device)}"
    return f"{device.type}, {describe_cpu()}, {torch.get_num_threads()} threads"


def steps_to_floor(config: Config, steps_per_epoch: float) -> float | None:
    """Training steps until k reaches its floor; infinity if it never does, None without top-k."""
    schedule, size = schedule_of(config, steps_per_epoch), selection_size(config)
    if schedule is None:
        return None
    if math.isinf(schedule.progress_to_floor):
        return math.inf
    return _steps_to(schedule.progress_to_lowest_k(size), schedule, config, steps_per_epoch)


def _steps_to(progress: float, schedule: KSchedule, config: Config, steps_per_epoch: float) -> int:
    """Training steps until so much of what the schedule counts is over."""
    if schedule.every == "epoch":
        return math.ceil(progress * steps_per_epoch)
    return math.ceil(progress * schedule.every / config.OPTIMIZATION.g_updates_per_step)


def describe_top_k(config: Config, steps_per_epoch: float) -> list[str]:
    """Lines on the top-k settings: where k starts and ends, and a remedy if it ends too high."""
    schedule, loss = schedule_of(config, steps_per_epoch), config.LOSS
    optimization = config.OPTIMIZATION
    floor_at = steps_to_floor(config, steps_per_epoch)
    if schedule is None or floor_at is None:
        return ["top-k: off (LOSS.apply_topk)"]
    batch, total = selection_size(config), optimization.total_steps
    floor = schedule.lowest_k(batch)
    unit = "epoch" if schedule.every == "epoch" else f"{schedule.every} generator steps"
    lines = [
        f"top-k: k from {batch} to {floor} of {batch} (gamma {schedule.gamma:g} every {unit}, "
        f"nu {schedule.nu:g}), mode {loss.topk_mode}, policy {loss.topk_policy}, "
        f"normalize {loss.topk_normalize}"
        + (
            f", over the {optimization.acml_steps} accumulated batches of an update"
            if batch > optimization.batch_size
            else ""
        )
    ]
    if floor == batch:
        remedy = "lower LOSS.topk_nu and LOSS.topk_gamma"
        if batch == 1:
            remedy = "enlarge the batch"
        elif replace(schedule, release_from=None, release_to=None).lowest_k(batch) < batch:
            remedy = "raise LOSS.topk_release_from, at which k has not fallen yet"
        lines.append(
            f"note: k can never drop under the batch size, so top-k does nothing here; {remedy}"
        )
        return lines
    if floor_at <= total:
        lines.append(f"top-k: the floor is reached at step {floor_at:,.0f} of {total:,}")
    else:
        updates = total * optimization.g_updates_per_step
        periods = total / steps_per_epoch if schedule.every == "epoch" else updates / schedule.every
        end = schedule.k(math.floor(periods), batch)
        line = f"note: k {'stays at' if end == batch else 'only falls to'} {end} in {total:,} steps"
        half = math.floor(periods / 2)
        if half >= 1:
            line += (
                f"; LOSS.topk_gamma={gamma_to_reach(schedule.nu, half):g} would "
                "reach the floor half-way"
            )
        else:
            line += "; LOSS.topk_every=STEPS anneals by generator steps instead of epochs"
        lines.append(line)
    if schedule.release_from is not None and schedule.release_to is not None:
        begin, end = (
            _steps_to(math.ceil(progress), schedule, config, steps_per_epoch)
            for progress in (schedule.release_from, schedule.release_to)
        )
        lines.append(f"top-k: k rises back to {batch} from step {begin:,} to {end:,}")
        if begin >= total:
            lines.append(
                "note: the release begins after the last step; lower LOSS.topk_release_from"
            )
    return lines


def describe_plan(config: Config, *, images: int, steps_per_epoch: float) -> list[str]:
    """Lines on the length of a run and its top-k schedule."""
    optimization = config.OPTIMIZATION
    total = optimization.total_steps
    epoch = f"{steps_per_epoch:,.1f}".removesuffix(".0")
    return [
        f"plan: {total:,} steps = {total / steps_per_epoch:,.1f} epochs of {epoch} steps; a "
        f"step shows {images_per_step(config)} of {images:,} real images to the critic "
        f"({optimization.d_updates_per_step} critic and {optimization.g_updates_per_step} "
        f"generator updates, batch {optimization.batch_size}"
        + (f" x {optimization.acml_steps} accumulated)" if optimization.acml_steps > 1 else ")"),
        *describe_top_k(config, steps_per_epoch),
        *describe_learning_rates(optimization),
        *(
            f"note: {note}"
            for method in methods_on(config)
            if method.notes is not None
            for note in method.notes(config)
        ),
        *describe_evidence(config),
    ]
