"""A process that is killed: at any moment, and in the middle of each file that it writes."""

import os
import signal
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from benchmarks.faults.compare import differences
from benchmarks.faults.fault import Fault, Outcome
from benchmarks.faults.program import Program, seeded
from benchmarks.faults.shim import Rule, is_loaded

GOAL = "`-ckpt auto` ends bit for bit as the undisturbed run"
# what stands in a path -> what is being written
KINDS = {
    "checkpoint": "checkpoints/",
    "log": "metrics.jsonl",
    "sample": "samples/",
    "tensorboard": "tensorboard/",
    "config": "config.yaml",
    "result": "result.json",
}


def go_on(program: Program, run: Path, outcome: Outcome, how: str) -> None:
    """Resume what was hurt, and hold its end against the undisturbed run."""
    ended = program.run(program.train(run, "-metrics", "fid", "-ckpt", "auto"))
    if not outcome.check(ended.status == 0, f"{how}: going on ended with {ended.said}"):
        return
    found = differences(program.undisturbed(), run)
    outcome.check(not found, f"{how}: {found}")


def at_any_moment(program: Program, trials: int) -> Outcome:
    """SIGKILL after a random time, most of them while it trains."""
    outcome, draw = Outcome(), seeded("kill")
    program.undisturbed()
    for trial in range(trials):
        run = program.place("killed")
        process = program.start(program.train(run, "-metrics", "fid"))
        if trial % 5:  # every fifth anywhere, the start included
            process.wait_until(lambda run=run: (run / "metrics.jsonl").exists())  # type: ignore[misc]
        delay = draw.uniform(0, program.seconds)
        time.sleep(delay)
        outcome.count("came too late" if process.is_over() else "hit")
        process.signal(signal.SIGKILL)
        process.wait()
        outcome.trials += 1
        go_on(program, run, outcome, f"killed after {delay:.2f} s")
    return outcome


def in_a_file(program: Program, trials: int) -> Outcome:
    """SIGKILL in the middle of a call that writes, renames, links, syncs or removes a file."""
    outcome, draw = Outcome(), seeded("kill in a file")
    _need_the_library()
    calls = _calls(program)
    kinds = list(KINDS)
    for trial in range(trials):
        kind = kinds[trial % len(kinds)]
        at = draw.randint(1, calls[kind])
        run = program.place("killed")
        rule = Rule(run, file=KINDS[kind], at=at)
        ended = program.run(program.train(run, "-metrics", "fid"), rule)
        outcome.trials += 1
        outcome.check(ended.status == -signal.SIGKILL, f"{kind}, call {at}: not hit: {ended.said}")
        outcome.count(kind)
        go_on(program, run, outcome, f"killed in call {at} on {kind}")
    return outcome


def again_and_again(program: Program, trials: int) -> Outcome:
    """A run that is killed in a random call, and again each time it goes on, five times."""
    outcome, draw = Outcome(), seeded("again")
    _need_the_library()
    program.undisturbed()
    for _ in range(trials):
        run = program.place("killed")
        for _ in range(5):
            rule = Rule(run, at=draw.randint(1, 400))
            ended = program.run(program.train(run, "-metrics", "fid", "-ckpt", "auto"), rule)
            outcome.count("kills") if ended.status < 0 else None
        outcome.trials += 1
        go_on(program, run, outcome, "killed five times")
    return outcome


def in_an_evaluation(program: Program, trials: int) -> Outcome:
    """SIGKILL while generated images are measured."""
    outcome, draw = Outcome(), seeded("evaluation")
    program.undisturbed()
    for _ in range(trials):
        which, run = draw.randint(1, 6), program.place("killed")
        program.run(program.train(run, "-metrics", "fid"), before=_kill_in_evaluation(which))
        outcome.trials += 1
        go_on(program, run, outcome, f"killed in evaluation {which}")
    return outcome


def _kill_in_evaluation(which: int) -> Callable[[], None]:
    def change() -> None:
        from topk_plugin.evaluation.evaluator import Evaluator

        evaluate, seen = Evaluator.evaluate, []

        def killed(self: Evaluator, *given: object, **named: object) -> object:
            seen.append(1)
            if len(seen) == which:
                os.kill(os.getpid(), signal.SIGKILL)
            return evaluate(self, *given, **named)  # type: ignore[arg-type]

        Evaluator.evaluate = killed  # type: ignore[assignment,method-assign]

    return change


def _calls(program: Program) -> Counter[str]:
    """How many calls an undisturbed run makes on each kind of file."""
    program.undisturbed()
    log, run = program.place("calls"), program.place("counted")
    program.run(program.train(run, "-metrics", "fid"), Rule(run, log=log))
    counted: Counter[str] = Counter()
    for line in log.read_text(encoding="utf-8").splitlines():
        for kind, part in KINDS.items():
            counted[kind] += part in line
    return counted


def _need_the_library() -> None:
    if not is_loaded():
        raise RuntimeError("start this by `python -m benchmarks.faults`, which loads the library")


FAULTS = (
    Fault("kill", "SIGKILL at a random moment", GOAL, at_any_moment, 1, 50),
    Fault(
        "kill-in-file",
        "SIGKILL half-way through a random write, rename, link, fsync or removal of a checkpoint, "
        "the log, a sample, TensorBoard's file, config.yaml, result.json",
        GOAL,
        in_a_file,
        2,
        60,
    ),
    Fault("kill-in-evaluation", "SIGKILL inside of an evaluation", GOAL, in_an_evaluation, 1, 10),
    Fault(
        "kill-again",
        "five SIGKILLs in one run, each in a random call",
        GOAL,
        again_and_again,
        0,
        10,
    ),
)
