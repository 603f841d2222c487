"""Long and heavy: a long run, and the gate in a loop of others."""

import gc
import os
import resource
import time
from pathlib import Path

import numpy as np
import torch
from torch import nn

from benchmarks.faults.fault import Fault, Outcome
from benchmarks.faults.program import Program
from topk_plugin import KSchedule, TopK

MOST_GROWTH = 1.0  # MB a 1,000 steps
WARM_UP = 0.3  # of a soak


def soak(program: Program, trials: int) -> Outcome:
    """So many steps, logged every 10, saved, sampled and measured every 100; then streamed."""
    outcome = Outcome()
    for more in ((), ("--stream", "--num_workers", 1)):
        name = "streamed" if more else "in memory"
        run = program.place("soak")
        often = ("--print_freq", 10, "--save_freq", 100, "-metrics", "fid")
        steps = ("--set", f"OPTIMIZATION.total_steps={trials}")
        process = program.start(program.train(run, *often, *more, *steps))
        seen: list[tuple[int, float, int, float]] = []
        while not process.is_over():
            step = _last_step(run)
            if step > (seen[-1][0] if seen else 0):
                seen.append((step, _memory(process.pid), _handles(process.pid), _cpu(process.pid)))
            time.sleep(0.5)
        ended = process.wait()
        outcome.trials += trials
        outcome.check(ended.status == 0, f"{name}: {ended.status}: {ended.said[-600:]}")
        table = np.array([row for row in seen if row[0] >= WARM_UP * trials])
        slope = 1000 * float(np.polyfit(table[:, 0], table[:, 1], 1)[0])
        outcome.notes[f"{name}: MB a 1,000 steps"] = round(slope, 2)
        outcome.check(slope < MOST_GROWTH, f"{name}: memory grows by {slope:.2f} MB a 1,000 steps")
        first, last = np.array_split(table, 2)
        handles = last[:, 2].max() - first[:, 2].max()
        outcome.notes[f"{name}: handles more"] = int(handles)
        outcome.check(handles <= 0, f"{name}: {handles} more handles")
        rates = [float((t[-1, 3] - t[0, 3]) / (t[-1, 0] - t[0, 0])) for t in (first, last)]
        outcome.notes[f"{name}: CPU time a step, second half to first"] = round(
            rates[1] / rates[0], 3
        )
        outcome.check(rates[1] < 1.2 * rates[0], f"{name}: slower, {rates}")
    return outcome


def _last_step(run: Path) -> int:
    """The last step in the log, from its last bytes."""
    try:
        with open(run / "metrics.jsonl", "rb") as file:
            file.seek(0, os.SEEK_END)
            file.seek(max(0, file.tell() - 4000))
            lines = file.read().split(b"\n")
    except FileNotFoundError:
        return 0
    steps = [int(line.split(b",")[0].split(b":")[1]) for line in lines[1:-1] if b'"step"' in line]
    return steps[-1] if steps else 0


def _memory(pid: int) -> float:
    """Resident memory in MB."""
    with open(f"/proc/{pid}/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * resource.getpagesize() / 1e6


def _handles(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))


def _cpu(pid: int) -> float:
    """CPU seconds; on a busy machine the clock says nothing."""
    with open(f"/proc/{pid}/stat", encoding="ascii") as file:
        fields = file.read().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _toy() -> tuple[nn.Module, nn.Module]:
    torch.manual_seed(0)
    return nn.Linear(2, 2), nn.Linear(2, 1)


def many_steps(program: Program, trials: int) -> Outcome:
    """Gated steps of a toy: nothing grows."""
    outcome = Outcome()
    generator, critic = _toy()
    topk = TopK(KSchedule(0.99, 0.5))
    topk.attach(critic)
    z = torch.randn(4, 2)
    sizes = []
    for step in range(trials):
        with topk.generator_step():
            (-critic(generator(z)).mean()).backward()
        topk.end_step()
        generator.zero_grad(set_to_none=True)
        if step in (trials // 2, trials - 1):
            sizes.append((_objects(), _memory(os.getpid())))
    outcome.trials = trials
    (before, first), (after, last) = sizes
    outcome.notes |= {"objects more": after - before, "MB more": round(last - first, 1)}
    outcome.check(after - before < 100 and last - first < 20, f"{sizes}")
    return outcome


def attached(program: Program, trials: int) -> Outcome:
    """Attach, a step, remove."""
    outcome = Outcome()
    generator, critic = _toy()
    z, sizes = torch.randn(4, 2), []
    for index in range(trials):
        topk = TopK(KSchedule(0.9, 0.5))
        handle = topk.attach(critic)
        with topk.generator_step():
            critic(generator(z)).mean().backward()
        handle.remove()
        if index in (trials // 2, trials - 1):
            sizes.append((_objects(), _memory(os.getpid())))
    outcome.trials = trials
    left = len(critic._forward_hooks) + len(critic._forward_pre_hooks)
    (before, first), (after, last) = sizes
    outcome.notes |= {"objects more": after - before, "MB more": round(last - first, 1)}
    outcome.check(left == 0 and after - before < 100, f"{left} hooks left, {sizes}")
    return outcome


def _objects() -> int:
    gc.collect()
    return len(gc.get_objects())


class _Wrong(Exception):
    pass


def raising(program: Program, trials: int) -> Outcome:
    """A step in which critic, loss or backward raises, and then one that must be as ever."""
    outcome = Outcome()
    z = torch.randn(8, 2, generator=torch.Generator().manual_seed(0))

    def gradient(trouble: str) -> list[torch.Tensor]:
        generator, critic = _toy()
        topk = TopK(KSchedule(0.5, 0.25, every=1))
        topk.attach(critic)
        with topk.generator_step():
            (-critic(generator(z)).mean()).backward()
        topk.end_step()  # k is 4 of 8 from here on
        generator.zero_grad()
        critic.zero_grad()

        def raise_(*given: object) -> None:
            raise _Wrong

        if trouble:
            handle = critic.register_forward_hook(raise_) if trouble == "critic" else None
            try:
                with topk.generator_step():
                    scores = critic(generator(z))
                    if trouble == "loss":
                        raise_()
                    if trouble == "backward":
                        scores.register_hook(raise_)
                    scores.mean().backward()
            except _Wrong:
                outcome.count(trouble)
            if handle is not None:
                handle.remove()
            generator.zero_grad()
            critic.zero_grad()
        with topk.generator_step():
            (-critic(generator(z)).mean()).backward()
        outcome.check(topk.k == 4, f"k is {topk.k}, not 4")
        plain = [p.grad.clone() for p in generator.parameters() if p.grad is not None]
        critic.zero_grad()
        critic(z).mean().backward()  # outside of a step the gate is not there
        return plain + [p.grad for p in critic.parameters() if p.grad is not None]

    expected = gradient("")
    for index in range(trials):
        trouble = ("critic", "loss", "backward")[index % 3]
        found = gradient(trouble)
        outcome.trials += 1
        same = all(torch.equal(a, b) for a, b in zip(expected, found, strict=True))
        outcome.check(same, f"after an exception in {trouble} the next step is another")
    return outcome


FAULTS = (
    Fault(
        "soak",
        "a long run with logs, checkpoints, samples and metrics, in memory and streamed",
        "memory grows by less than 1 MB a 1,000 steps, no more open files, no slower",
        soak,
        0,
        20_000,
    ),
    Fault(
        "gated-steps",
        "gated steps of a toy in a loop of one's own",
        "nothing grows",
        many_steps,
        200,
        1_000_000,
    ),
    Fault("attach", "attached, used and removed", "nothing stays", attached, 100, 10_000),
    Fault(
        "exceptions",
        "an exception in critic, loss or backward of a gated step",
        "the next step is bit for bit as if nothing had happened",
        raising,
        6,
        300,
    ),
)
