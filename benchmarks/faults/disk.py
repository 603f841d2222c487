"""A disk that is full, that can't be written, that fails, that is gone; and a power cut."""

import errno
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.faults.compare import differences
from benchmarks.faults.fault import Fault, Outcome
from benchmarks.faults.kills import GOAL, KINDS, go_on
from benchmarks.faults.power import worst_states
from benchmarks.faults.program import Program, seeded
from benchmarks.faults.shim import Rule
from topk_plugin.base.errors import UserError
from topk_plugin.cli.common import USER_ERROR

ENDS = "one sentence, status 2, no traceback; "
ERRORS = {
    "write": (errno.ENOSPC, errno.EIO, errno.EDQUOT),
    "fsync": (errno.EIO, errno.ENOSPC),
    "rename": (errno.EIO, errno.EACCES),
    "open": (errno.ENOSPC, errno.EROFS, errno.EMFILE),
    "link": (errno.EPERM, errno.EMLINK),
}


def failing_calls(program: Program, trials: int) -> Outcome:
    """One call and all like it fail from a random moment on, for each kind of file."""
    outcome, draw = Outcome(), seeded("failing")
    program.undisturbed()
    cases = [
        (kind, call, code) for call, codes in ERRORS.items() for code in codes for kind in KINDS
    ]
    draw.shuffle(cases)
    for trial in range(trials):
        kind, call, code = cases[trial % len(cases)]
        run = program.place("failing")
        rule = Rule(run, call, KINDS[kind], at=draw.choice((1, 2, 3, 7)), later=True, do=code)
        ended = program.run(program.train(run, "-metrics", "fid"), rule)
        how = f"{call} of {kind} fails with {errno.errorcode[code]} from call {rule.at} on"
        outcome.trials += 1
        outcome.count(f"status {ended.status}")
        _ended_well(outcome, ended.status, ended.sentence, ended.said, how)
        go_on(program, run, outcome, how)
    return outcome


def _ended_well(outcome: Outcome, status: int, sentence: str, said: str, how: str) -> None:
    """It went on without harm, or said what is wrong."""
    fine = (status == 0 and "Traceback" not in said) or (status == USER_ERROR and bool(sentence))
    outcome.check(fine, f"{how}: status {status}: {said[-900:]}")


def full_disk(program: Program, trials: int) -> Outcome:
    """A file system of a few hundred kilobytes, of a random size, really full."""
    outcome, draw = Outcome(), seeded("full")
    program.undisturbed()
    for _ in range(trials):
        size = draw.randint(40, 1500)
        run = program.place("small")
        with tmpfs(run, size):
            inside = run / "run"
            ended = program.run(program.train(inside, "-metrics", "fid"))
            how = f"{size} kB"
            outcome.trials += 1
            outcome.count(f"status {ended.status}")
            _ended_well(outcome, ended.status, ended.sentence, ended.said, how)
            subprocess.run(["mount", "-o", "remount,size=64m", str(run)], check=True)
            go_on(program, inside, outcome, how)
    return outcome


@contextmanager
def tmpfs(folder: Path, kilobytes: int) -> Iterator[None]:
    """A small file system in memory.

    Raises:
        UserError: only root may make one.
    """
    folder.mkdir(parents=True)
    command = ["mount", "-t", "tmpfs", "-o", f"size={kilobytes}k", "tmpfs", str(folder)]
    if shutil.which("mount") is None or subprocess.run(command, capture_output=True).returncode:
        raise UserError("a small file system can be made by root on Linux only")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def read_only(program: Program, trials: int) -> Outcome:
    """A file system that is read-only from the start, or becomes so while it trains."""
    outcome, draw = Outcome(), seeded("read-only")
    program.undisturbed()
    for trial in range(trials):
        place = program.place("small")
        with tmpfs(place, 64_000):
            run = place / "run"
            arguments = program.train(run, "-metrics", "fid")
            if trial % 2 == 0:
                subprocess.run(["mount", "-o", "remount,ro", str(place)], check=True)
                ended = program.run(arguments)
            else:
                process = program.start(arguments)
                process.wait_until((run / "metrics.jsonl").exists)
                time.sleep(draw.uniform(0, 0.3 * program.seconds))
                # busy while a file is open for writing: asked until it is granted
                remount = ["mount", "-o", "remount,ro", str(place)]
                while (
                    not process.is_over()
                    and subprocess.run(remount, capture_output=True).returncode
                ):
                    pass
                ended = process.wait()
            outcome.trials += 1
            outcome.count(f"status {ended.status}")
            _ended_well(outcome, ended.status, ended.sentence, ended.said, "read-only")
            subprocess.run(["mount", "-o", "remount,rw", str(place)], check=True)
            go_on(program, run, outcome, "read-only")
    return outcome


def deleted(program: Program, trials: int) -> Outcome:
    """The run's folder, or one in it, is deleted while it trains."""
    outcome, draw = Outcome(), seeded("deleted")
    program.undisturbed()
    parts = ("", "checkpoints", "samples", "tensorboard")
    for trial in range(trials):
        run = program.place("deleted")
        process = program.start(program.train(run, "-metrics", "fid"))
        process.wait_until(lambda run=run: (run / "checkpoints" / "last.pt").exists())  # type: ignore[misc]
        time.sleep(draw.uniform(0, 0.3 * program.seconds))
        part = parts[trial % len(parts)]
        _remove(run / part)
        ended = process.wait()
        outcome.trials += 1
        outcome.count(f"{part or 'all'}: status {ended.status}")
        _ended_well(outcome, ended.status, ended.sentence, ended.said, f"{part or 'all'} deleted")
        if ended.status == 0 and part in ("", "checkpoints"):
            # what came after the deletion is there; what went with it nobody can bring back
            found = differences(program.undisturbed(), run) if part == "checkpoints" else ""
            outcome.check(not found, found)
    return outcome


def _remove(folder: Path) -> None:
    """Also where somebody writes into it meanwhile."""
    for _ in range(100):
        shutil.rmtree(folder, ignore_errors=True)
        if not folder.exists():
            return


def power_cut(program: Program, trials: int) -> Outcome:
    """At each moment of a run, every state of the disk that the rules of POSIX allow."""
    outcome = Outcome()
    program.undisturbed()
    for _ in range(trials):
        log, run = program.place("calls"), program.place("powered")
        ended = program.run(program.train(run, "-metrics", "fid"), Rule(run, log=log))
        outcome.check(ended.status == 0, ended.said)
        for folder, names in (("checkpoints", ("last.pt", "previous.pt")), ("", ("config.yaml",))):
            moments, states, broken = worst_states(log.read_text("utf-8"), run / folder, names)
            outcome.trials += moments
            outcome.notes["states"] = outcome.notes.get("states", 0) + states
            outcome.lost += broken[:20]
    return outcome


FAULTS = (
    Fault(
        "failing-calls",
        "write, fsync, rename, open or link of a checkpoint, the log, a sample, TensorBoard's "
        "file, config.yaml or result.json fails from some moment on (no space, quota, I/O error, "
        "read-only, too many files)",
        f"the run goes on, or {ENDS}then {GOAL}",
        failing_calls,
        1,
        40,
    ),
    Fault(
        "full-disk",
        "a file system of 40 to 1,500 kB (needs root)",
        f"{ENDS}with more space {GOAL}",
        full_disk,
        1,
        12,
    ),
    Fault(
        "read-only",
        "a file system that is, or becomes, read-only (needs root)",
        f"{ENDS}once it can be written {GOAL}",
        read_only,
        0,
        8,
    ),
    Fault(
        "deleted",
        "the run's folder, or one in it, is deleted while it trains",
        "one sentence, status 2; or the run ends and its last checkpoint is the undisturbed one",
        deleted,
        0,
        8,
    ),
    Fault(
        "power-cut",
        "the power fails between any two calls: what was not synced may be lost, in any order",
        "a whole checkpoint, as soon as there was one; never half a config",
        power_cut,
        1,
        3,
    ),
)
