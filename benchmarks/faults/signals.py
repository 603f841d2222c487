"""Signals that ask a run to stop, or stop the clock for it."""

import signal
import time

from benchmarks.faults.compare import differences
from benchmarks.faults.fault import Fault, Outcome
from benchmarks.faults.kills import GOAL, go_on
from benchmarks.faults.program import Program, seeded
from topk_plugin.cli.common import INTERRUPTED

ASKING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def once(program: Program, trials: int) -> Outcome:
    """One signal while it trains: a checkpoint, a sentence, status 130."""
    outcome, draw = Outcome(), seeded("once")
    program.undisturbed()
    for trial in range(trials):
        number, run = ASKING[trial % len(ASKING)], program.place("asked")
        process = program.start(program.train(run, "-metrics", "fid"))
        process.wait_until(lambda run=run: (run / "metrics.jsonl").exists())  # type: ignore[misc]
        time.sleep(draw.uniform(0, 0.7 * program.seconds))
        late = process.is_over()
        process.signal(number)
        ended = process.wait()
        outcome.trials += 1
        outcome.count("came too late" if late or ended.status == 0 else number.name)
        if ended.status != 0:
            said = ended.status == INTERRUPTED and "a checkpoint is saved" in ended.said
            said = said and "Traceback" not in ended.said
            outcome.check(said, f"{number.name}: status {ended.status}: {ended.said}")
        go_on(program, run, outcome, number.name)
    return outcome


def twice(program: Program, trials: int) -> Outcome:
    """A second signal right behind the first ends it at once."""
    outcome, draw = Outcome(), seeded("twice")
    program.undisturbed()
    for trial in range(trials):
        number, run = ASKING[trial % len(ASKING)], program.place("asked")
        process = program.start(program.train(run, "-metrics", "fid"))
        process.wait_until(lambda run=run: (run / "metrics.jsonl").exists())  # type: ignore[misc]
        time.sleep(draw.uniform(0, 0.7 * program.seconds))
        for _ in range(2):
            process.signal(number)
            time.sleep(draw.uniform(0, 0.02))
        ended = process.wait()
        outcome.trials += 1
        outcome.count(f"status {ended.status}")
        fine = ended.status in (0, INTERRUPTED, -number) and "Traceback" not in ended.said
        outcome.check(fine, f"{number.name} twice: status {ended.status}: {ended.said}")
        go_on(program, run, outcome, f"{number.name} twice")
    return outcome


def paused(program: Program, trials: int) -> Outcome:
    """SIGSTOP and SIGCONT, three times in a run."""
    outcome, draw = Outcome(), seeded("paused")
    program.undisturbed()
    for _ in range(trials):
        run = program.place("paused")
        process = program.start(program.train(run, "-metrics", "fid"))
        for _ in range(3):
            time.sleep(draw.uniform(0, 0.3 * program.seconds))
            process.signal(signal.SIGSTOP)
            time.sleep(0.1)
            process.signal(signal.SIGCONT)
        ended = process.wait()
        outcome.trials += 1
        outcome.check(ended.status == 0, f"status {ended.status}: {ended.said}")
        outcome.check(not (found := differences(program.undisturbed(), run)), found)
    return outcome


FAULTS = (
    Fault(
        "signal",
        "Ctrl-C, SIGTERM or SIGHUP while it trains",
        f"status 130, a checkpoint, a sentence; {GOAL}",
        once,
        1,
        30,
    ),
    Fault(
        "signal-twice",
        "the same twice within 20 ms",
        f"it ends at once without a traceback; {GOAL}",
        twice,
        1,
        30,
    ),
    Fault(
        "pause", "SIGSTOP and SIGCONT, three times", "the run goes on bit for bit", paused, 0, 10
    ),
)
