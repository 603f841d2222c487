"""Tries faults on the program and counts what was lost.

    python -m benchmarks.faults [--quick] [--only NAME ...] [--trials N] [--command "torchrun ..."]

Without --only all faults are tried. What is found comes into benchmarks/results/faults (--save),
and by `python -m benchmarks.pages` into docs/reliability.md.
"""

import argparse
import os
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path

from benchmarks.faults.catalogue import SECTIONS
from benchmarks.faults.fault import Fault, Outcome
from benchmarks.faults.program import Program
from benchmarks.faults.results import FOLDER, store
from benchmarks.faults.shim import build, is_loaded
from topk_plugin.base.errors import UserError


def main() -> int:
    """Returns 1 where something was lost."""
    faults = {fault.name: fault for section in SECTIONS.values() for fault in section}
    parser = argparse.ArgumentParser(prog="python -m benchmarks.faults", description=__doc__)
    parser.add_argument("--only", nargs="+", choices=faults, metavar="NAME", help=", ".join(faults))
    parser.add_argument("--quick", action="store_true", help="what a test run tries")
    parser.add_argument("--trials", type=int, help="of each fault; default: the long run's")
    parser.add_argument(
        "--command", default="", help="starts the program; default: it is forked, which is quicker"
    )
    parser.add_argument("--save", type=Path, default=FOLDER, help="folder of the results")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="faults-") as name:
        folder = Path(name).resolve()
        if not is_loaded() and sys.platform.startswith("linux"):
            _start_with_the_library(folder)
        program = Program(folder / "work", options.command)
        lost = 0
        for fault in (faults[n] for n in options.only or faults):
            trials = options.trials or (fault.quick if options.quick else fault.full)
            if trials:
                lost += len(_try(fault, program, trials, options.save).lost)
    return int(lost > 0)


def _try(fault: Fault, program: Program, trials: int, save: Path) -> Outcome:
    started = time.perf_counter()
    try:
        outcome = fault.run(program, trials)
    except UserError as error:
        print(f"{fault.name}: not tried: {error}", flush=True)
        return Outcome()
    seconds = time.perf_counter() - started
    notes = ", ".join(f"{name}: {value}" for name, value in outcome.notes.items())
    print(
        f"{fault.name}: {outcome.trials} trials in {seconds:.0f} s, "
        f"lost: {len(outcome.lost)} ({notes})",
        *(f"  {sentence}" for sentence in outcome.lost),
        sep="\n",
        flush=True,
    )
    store(save, fault, outcome, seconds, program.command, datetime.now(UTC).date().isoformat())
    return outcome


def _start_with_the_library(folder: Path) -> None:
    """Go on in a process that is started with the library, and end with its status."""
    import subprocess

    environment = os.environ | {
        "LD_PRELOAD": str(build(folder)),
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join(p or os.getcwd() for p in sys.path[:1]),
    }
    again = [sys.executable, "-m", "benchmarks.faults", *sys.argv[1:]]
    raise SystemExit(subprocess.run(again, env=environment).returncode)


if __name__ == "__main__":
    sys.exit(main())
