"""Several runs at once."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from tqdm import tqdm

from topk_plugin.base.errors import UserError
from topk_plugin.study.live_table import LiveTable, last_step
from topk_plugin.study.spec import RunSpec
from topk_plugin.study.worker import RESULT

LOG = "log.txt"
MEMORY_OF_A_RUN = 3 * 2**30  # bytes; narrow GANs on CIFAR-10 take 1 to 2 GiB


class Stopped(Exception):
    """The user or the system asked to stop; every run has saved a checkpoint."""


@dataclass
class _Job:
    spec: RunSpec
    folder: Path
    process: subprocess.Popen[bytes] | None = None
    started_at: float = 0.0
    first_step: int = 0

    @property
    def done(self) -> bool:
        return (self.folder / RESULT).exists()

    def step(self) -> int:
        """The last step that the run logged."""
        return self.spec.steps if self.done else last_step(self.folder)


def jobs_at_once(threads: int) -> int:
    """How many runs fit into the cores and the free memory of this machine."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    by_cores = max(1, (cores or 1) // threads)
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError:  # not Linux
        return by_cores
    free = next(1024 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable:"))
    return max(1, min(by_cores, free // MEMORY_OF_A_RUN))


def run_all(
    specs: Sequence[RunSpec],
    root: Path,
    *,
    at_once: int,
    say: Callable[[str], None],
    after_each: Callable[[], None],
) -> None:
    """Finish every run of ``specs`` in folders below ``root``.

    Args:
        specs: the runs, the most important first.
        root: folder of all runs.
        at_once: so many processes.
        say: prints a line.
        after_each: called when a run is over.

    Raises:
        Stopped: asked to stop.
        UserError: a folder holds a run of other settings; or, after all others are finished, that
            a run failed.
    """
    jobs = [_Job(spec, root / spec.name) for spec in specs]
    for job in jobs:
        job.spec.check_same(job.folder)
    # SIGHUP: the terminal was closed
    numbers = {signal.SIGINT, signal.SIGTERM, getattr(signal, "SIGHUP", signal.SIGTERM)}
    previous = {number: signal.signal(number, _stop) for number in numbers}
    waiting = [job for job in jobs if not job.done]
    running: list[_Job] = []
    failures: list[str] = []
    table = LiveTable(specs, root)

    def tell(line: str) -> None:
        table.clear()
        say(line)

    try:
        while waiting or running:
            while waiting and len(running) < at_once:
                running.append(_start(waiting.pop(0), tell))
            for job in list(running):
                assert job.process is not None
                if job.process.poll() is None:
                    continue
                running.remove(job)
                if job.done:
                    tell(f"{_count(jobs)} of {len(jobs)} runs done: {job.spec.name}; {_left(jobs)}")
                    after_each()
                else:
                    failures.append(_failure(job))
                    tell(f"error: {failures[-1]}; the other runs go on")
            table.show(_left(jobs))
            time.sleep(1.0)
    finally:
        for job in running:
            assert job.process is not None
            job.process.terminate()
        for job in running:
            assert job.process is not None
            job.process.wait()
        table.clear()
        for number, handler in previous.items():
            signal.signal(number, handler)
    if failures:
        more = f"; {len(failures) - 1} more failed, see above" if len(failures) > 1 else ""
        raise UserError(f"{failures[0]}{more}; the same command tries again")


def _stop(number: int, frame: FrameType | None) -> None:
    print("stopping: every run saves a checkpoint", file=sys.stderr)
    raise Stopped


def _start(job: _Job, say: Callable[[str], None]) -> _Job:
    job.spec.write(job.folder)
    job.started_at, job.first_step = time.monotonic(), job.step()
    at = f" at step {job.first_step:,}" if job.first_step else ""
    say(f"{job.spec.name}{at}: {job.folder / LOG}")
    threads = {"OMP_NUM_THREADS": str(job.spec.threads)}
    with open(job.folder / LOG, "ab") as log:
        job.process = subprocess.Popen(
            [sys.executable, "-m", "topk_plugin.study.worker", str(job.folder)],
            stdout=log,
            stderr=subprocess.STDOUT,
            cwd=Path(__file__).resolve().parents[2],
            env=os.environ | threads,
            process_group=0,  # Ctrl-C reaches it through us only
        )
    return job


def _count(jobs: Sequence[_Job]) -> int:
    return sum(job.done for job in jobs)


def _left(jobs: Sequence[_Job]) -> str:
    """How long the rest takes at the pace of this sitting."""
    now = time.monotonic()
    begun = [job for job in jobs if job.started_at]
    made = sum(job.step() - job.first_step for job in begun)
    elapsed = now - min(job.started_at for job in begun)
    rest = sum(job.spec.steps - job.step() for job in jobs)
    if not made:
        return f"{rest:,} steps left"
    return f"{rest:,} steps left, about {tqdm.format_interval(rest * elapsed / made)}"


def _failure(job: _Job) -> str:
    lines = (job.folder / LOG).read_text(encoding="utf-8", errors="replace").splitlines()
    last = next((line for line in reversed(lines) if line.strip()), "no output")
    return f"the run {job.spec.name} failed ({last.strip()}); its log is {job.folder / LOG}"
