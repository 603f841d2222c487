"""What is around a run: other processes, their locks, the clock, descriptors, shared memory."""

import ctypes
import os
import random
import resource
import signal
import subprocess
import time
from collections.abc import Callable

from benchmarks.faults.compare import differences
from benchmarks.faults.disk import ENDS
from benchmarks.faults.fault import Fault, Outcome
from benchmarks.faults.kills import GOAL, go_on
from benchmarks.faults.program import Ended, Program, seeded
from topk_plugin.cli.common import USER_ERROR

NEW_MOUNTS = 0x00020000  # CLONE_NEWNS of Linux


def two_runs(program: Program, trials: int) -> Outcome:
    """A second run, started while the first is anywhere in its training."""
    outcome, draw = Outcome(), seeded("two")
    program.undisturbed()
    for trial in range(trials):
        run = program.place("shared")
        first = program.start(program.train(run, "-metrics", "fid"))
        first.wait_until(lambda run=run: (run / ".lock").exists())  # type: ignore[misc]
        time.sleep(draw.uniform(0, 0.2 * program.seconds))
        more = ("-ckpt", "auto") if trial % 2 else ()
        second = program.run(program.train(run, "-metrics", "fid", *more))
        ended = first.wait()
        outcome.trials += 1
        refused = second.status == USER_ERROR and bool(second.sentence)
        outcome.check(refused or second.status == 0, f"the second: {second.said}")
        outcome.count("refused" if refused else "came after the first")
        found = differences(program.undisturbed(), run)
        outcome.check(ended.status == 0 and not found, f"the first: {ended.status}: {found}")
    return outcome


def stale_lock(program: Program, trials: int) -> Outcome:
    """A lock file of a dead process, of a number that lives again, of another host."""
    outcome = Outcome()
    contents = ("", "999999\n", f"{os.getpid()}\n", "another-host 12\n", "\0" * 100)
    for content in contents[:trials]:
        run = program.place("stale")
        run.mkdir()
        (run / ".lock").write_text(content)
        ended = program.run(program.train(run, "-metrics", "fid"))
        outcome.trials += 1
        found = differences(program.undisturbed(), run) if ended.status == 0 else ended.said
        outcome.check(not found, f"{content!r}: {found}")
    return outcome


def clock(program: Program, trials: int) -> Outcome:
    """The wall clock jumps, mostly back, at every look."""
    outcome = Outcome()
    for trial in range(trials):
        run = program.place("clock")
        ended = program.run(program.train(run, "-metrics", "fid"), before=_jumping(trial))
        outcome.trials += 1
        found = differences(program.undisturbed(), run) if ended.status == 0 else ended.said
        outcome.check(not found, found)
    return outcome


def _jumping(seed: int) -> Callable[[], None]:
    def change() -> None:
        real, draw = time.time, random.Random(seed)
        time.time = lambda: real() - draw.uniform(-1e4, 1e8)

    return change


def few_descriptors(program: Program, trials: int) -> Outcome:
    """So many open files are allowed and no more."""
    outcome, draw = Outcome(), seeded("descriptors")
    program.undisturbed()
    for trial in range(trials):
        limit, run = draw.randint(4, 40), program.place("few")
        more = ("--stream", "--num_workers", 2) if trial % 2 else ()
        ended = program.run(program.train(run, "-metrics", "fid", *more), before=_limit(limit))
        outcome.trials += 1
        _ended_well(outcome, ended, f"{limit} descriptors {more}")
        outcome.count(f"status {ended.status}")
        go_on(program, run, outcome, f"{limit} descriptors")
    return outcome


def _limit(descriptors: int) -> Callable[[], None]:
    def change() -> None:
        used = len(os.listdir("/proc/self/fd"))
        most = used + descriptors
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))

    return change


def no_shared_memory(program: Program, trials: int) -> Outcome:
    """/dev/shm of a few kilobytes, in a name space of the process's own, with loader workers."""
    outcome, draw = Outcome(), seeded("shm")
    program.undisturbed()
    for _ in range(trials):
        size, run = draw.choice((4, 16, 24, 64)), program.place("shm")
        arguments = program.train(run, "-metrics", "fid", "--stream", "--num_workers", 2)
        ended = program.run(arguments, before=_small_shared_memory(size))
        outcome.trials += 1
        _ended_well(outcome, ended, f"/dev/shm of {size} kB")
        outcome.count(f"status {ended.status}")
        go_on(program, run, outcome, f"/dev/shm of {size} kB")
    return outcome


def _small_shared_memory(kilobytes: int) -> Callable[[], None]:
    def change() -> None:
        if ctypes.CDLL(None).unshare(NEW_MOUNTS) != 0:
            raise PermissionError("a mount name space of one's own needs root")
        subprocess.run(["mount", "--make-rprivate", "/"], check=True)
        small = ["mount", "-t", "tmpfs", "-o", f"size={kilobytes}k", "tmpfs", "/dev/shm"]
        subprocess.run(small, check=True)

    return change


def killed_worker(program: Program, trials: int) -> Outcome:
    """One of two loader workers is killed while it trains."""
    outcome, draw = Outcome(), seeded("worker")
    program.undisturbed()
    for _ in range(trials):
        run = program.place("worker")
        arguments = program.train(run, "-metrics", "fid", "--stream", "--num_workers", 2)
        process = program.start(arguments)
        process.wait_until(lambda run=run: (run / "metrics.jsonl").exists())  # type: ignore[misc]
        time.sleep(draw.uniform(0, 0.3 * program.seconds))
        workers = _children(process.pid)
        for worker in workers[:1]:
            os.kill(worker, signal.SIGKILL)
        ended = process.wait()
        outcome.trials += 1
        outcome.count(f"status {ended.status}")
        _ended_well(outcome, ended, "a worker is killed")
        go_on(program, run, outcome, "a worker is killed")
    return outcome


def _children(pid: int) -> list[int]:
    """Processes whose parent is ``pid``."""
    try:
        with open(f"/proc/{pid}/task/{pid}/children", encoding="ascii") as file:
            return [int(child) for child in file.read().split()]
    except FileNotFoundError:
        return []


def _ended_well(outcome: Outcome, ended: Ended, how: str) -> None:
    fine = ended.status == 0 or (ended.status == USER_ERROR and bool(ended.sentence))
    outcome.check(fine, f"{how}: status {ended.status}: {ended.said[-900:]}")


FAULTS = (
    Fault(
        "two-runs",
        "a second run in the folder of one that trains",
        "the second is refused in a sentence; the first ends bit for bit as undisturbed",
        two_runs,
        1,
        6,
    ),
    Fault(
        "stale-lock",
        "a lock file of a dead process, of a process number that is in use again, of another host",
        "it holds nobody up",
        stale_lock,
        0,
        5,
    ),
    Fault(
        "clock",
        "the wall clock jumps by up to three years, mostly back",
        "as undisturbed",
        clock,
        0,
        4,
    ),
    Fault(
        "descriptors",
        "only 4 to 40 more files may be open; in memory, and with loader workers",
        f"the run goes on, or {ENDS}then {GOAL}",
        few_descriptors,
        1,
        12,
    ),
    Fault(
        "shared-memory",
        "/dev/shm of 4 to 64 kB, with loader workers (needs root)",
        f"the run goes on, or {ENDS}then {GOAL}",
        no_shared_memory,
        0,
        6,
    ),
    Fault(
        "worker-killed",
        "SIGKILL for a loader worker",
        f"{ENDS}then {GOAL}",
        killed_worker,
        1,
        8,
    ),
)
