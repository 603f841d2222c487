"""A checkpoint that is damaged, of another program, or not one at all."""

import os
from collections.abc import Callable
from pathlib import Path

import torch

from benchmarks.faults.compare import different
from benchmarks.faults.fault import Fault, Outcome
from benchmarks.faults.kills import go_on
from benchmarks.faults.program import Program, seeded
from topk_plugin.base.errors import UserError
from topk_plugin.cli.common import USER_ERROR
from topk_plugin.engine.checkpoint import DamagedCheckpoint, load_checkpoint


def damaged(program: Program, trials: int) -> Outcome:
    """Random bits, one of each six a length: is a file that says something else ever read?"""
    outcome, draw = Outcome(), seeded("damage")
    whole = program.undisturbed() / "checkpoints" / "last.pt"
    content, truth = whole.read_bytes(), load_checkpoint(whole).trainer
    file = program.place("damaged.pt")
    for trial in range(trials):
        changed = bytearray(content)
        if trial % 6 == 0:
            kind, place = "cut", draw.randrange(len(content))
            del changed[place:]
        else:
            kind, place = "bit", draw.randrange(8 * len(content))
            changed[place // 8] ^= 1 << place % 8
        file.write_bytes(changed)
        outcome.trials += 1
        try:
            read = load_checkpoint(file)
        except DamagedCheckpoint:
            outcome.count(f"{kind}: refused")
            continue
        outcome.count(f"{kind}: means nothing")
        found = different(truth, read.trainer)
        outcome.check(found is None, f"{kind} {place}: read, and differs at {found}")
    return outcome


def goes_on(program: Program, trials: int) -> Outcome:
    """`-ckpt auto` with a damaged last checkpoint."""
    outcome, draw = Outcome(), seeded("goes on")
    for _ in range(trials):
        run = program.place("hurt")
        program.run(program.train(run, "-metrics", "fid"))
        last = run / "checkpoints" / "last.pt"
        last.write_bytes(last.read_bytes()[: draw.randrange(last.stat().st_size)])
        outcome.trials += 1
        go_on(program, run, outcome, "cut off")
    return outcome


class _Code:
    def __init__(self, mark: Path) -> None:
        self._mark = mark

    def __reduce__(self) -> tuple[Callable[..., object], tuple[str]]:
        return os.mkdir, (str(self._mark),)


def foreign(program: Program, trials: int) -> Outcome:
    """Files that are no checkpoint of this program."""
    outcome = Outcome()
    whole = program.undisturbed() / "checkpoints" / "last.pt"
    content = torch.load(whole, weights_only=True)
    mark, file = program.place("mark"), program.place("foreign.pt")
    cases: dict[str, Callable[[], object]] = {
        "empty": lambda: file.write_bytes(b""),
        "text": lambda: file.write_text("weights"),
        "another program's": lambda: torch.save({"state_dict": torch.zeros(3)}, file),
        "code": lambda: torch.save({"format": _Code(mark)}, file),
        "a future version": lambda: torch.save(content | {"version": 99}, file),
        "changed after it was signed": lambda: torch.save(content | {"seed": 7}, file),
    }
    for name in list(cases)[:trials]:
        cases[name]()
        ended = program.run(["sample", "-ckpt", str(file), "-save", str(program.place("grid.png"))])
        outcome.trials += 1
        fine = ended.status == USER_ERROR and file.name in ended.sentence
        outcome.check(fine and not mark.exists(), f"{name}: {ended.status}: {ended.said}")
    try:
        load_checkpoint(file)
        outcome.check(False, "the last case was read")
    except UserError:
        pass
    return outcome


FAULTS = (
    Fault(
        "checkpoint-bits",
        "a random bit of a checkpoint is flipped, or it is cut off anywhere",
        "refused, unless the bit means nothing: what is read is what was written",
        damaged,
        60,
        1200,
    ),
    Fault(
        "checkpoint-cut",
        "the last checkpoint of a run is cut off",
        "`-ckpt auto` takes the one before, says so, and ends bit for bit as undisturbed",
        goes_on,
        1,
        6,
    ),
    Fault(
        "checkpoint-foreign",
        "an empty file, text, another program's file, one that would run code, one of a future "
        "version, one that was changed",
        "one sentence, status 2; no code runs",
        foreign,
        0,
        6,
    ),
)
