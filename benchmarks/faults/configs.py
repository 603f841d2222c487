"""Config files and arguments from strangers: changed at random, from a seed."""

import random
import resource
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from benchmarks.faults.fault import Fault, Outcome
from benchmarks.faults.program import Program, seeded
from topk_plugin import KSchedule, TopK, keep_mask
from topk_plugin.base.errors import UserError
from topk_plugin.cli.common import USER_ERROR
from topk_plugin.engine.config.config import load_config

FILES = sorted((Path(__file__).resolve().parents[2] / "configs").glob("*/*.yaml"))
MOST_SECONDS, MOST_BYTES = 5.0, 1 << 30
ODD = (
    *("", "~", "null", "yes", "no", "on", "0", "-1", "1e400", "-1e400", ".nan", ".inf", "-.inf"),
    *(
        "1_000",
        "0x10",
        "0o17",
        "1:30",
        "9" * 400,
        "1e-400",
        "NaN",
        "N/A",
        "W/O",
        "[]",
        "{}",
        "[N/A]",
    ),
    *("[1, [2, [3]]]", "{a: {b: c}}", "!!python/object:os.system x", "!!python/name:os.system"),
    *("!!binary aGk=", "!!set {a}", "!!timestamp 2001-01-01", "!!int x", "&a [*a]", "*nowhere"),
    *("é", "日本語", "\u202e", "\U0001f600", "'", '"', "\\", "\t", "\0", "|", ">", "%", "@", "`"),
    *("true", "False", "'1'", "1.5", "big_resnet", "hinge", "../../etc/passwd", "a" * 5000),
)
BOMB = "\n".join(
    f"b{i}: &b{i} [{', '.join([f'*b{i - 1}'] * 9 if i else ['x'] * 9)}]" for i in range(9)
)


def mutated(text: str, draw: random.Random) -> str:
    """A config with one to four changes of lines, values, characters or structure."""
    lines = text.splitlines()
    for _ in range(draw.randint(1, 4)):
        at = draw.randrange(len(lines))
        line, kind = lines[at], draw.randrange(10)
        name, colon, _value = line.partition(":")
        if kind <= 2 and colon:
            lines[at] = f"{name}: {draw.choice(ODD)}"
        elif kind == 3:
            lines.insert(at, lines[draw.randrange(len(lines))])
        elif kind == 4:
            del lines[at]
            lines = lines or [""]
        elif kind == 5:
            lines[at] = " " * draw.randrange(12) + line.strip()
        elif kind == 6:
            place = draw.randrange(len(line) + 1)
            lines[at] = line[:place] + draw.choice(ODD + tuple(":-[]{}&*!#?,")) + line[place:]
        elif kind == 7:
            lines[at] = f"{name}: " + "[" * draw.choice((3, 2000)) + "x"
        elif kind == 8:
            lines.append(BOMB if draw.random() < 0.5 else "DATA: *b8")
        else:
            digits = [c for c in line if c.isdigit()]
            lines[at] = line.replace(digits[0], draw.choice(ODD), 1) if digits else line.upper()
    return "\n".join(lines)


def files(program: Program, trials: int) -> Outcome:
    """Each file is read as `train` reads it; a sample of those that are configs is planned."""
    outcome, draw = Outcome(), seeded("configs")
    texts = [path.read_text(encoding="utf-8") for path in FILES]
    path = program.place("config.yaml")

    def one() -> str:
        path.write_text(mutated(draw.choice(texts), draw), encoding="utf-8", errors="replace")
        load_config(path)
        return path.read_text(encoding="utf-8")

    fine = _all(outcome, trials, one)
    for text in draw.sample(fine, min(len(fine), trials // 50)):
        path.write_text(text, encoding="utf-8")
        arguments = [
            "train",
            "-cfg",
            str(path),
            "-data",
            str(program.data),
            "-save",
            "x",
            "--dry-run",
        ]
        ended = program.run([*arguments, "--device", "cpu"], before=_bounded)
        outcome.count(f"planned, status {ended.status}")
        said = ended.status == 0 or (ended.status == USER_ERROR and bool(ended.sentence))
        outcome.check(said and "Traceback" not in ended.said, f"{text}\n{ended.said[-500:]}")
    return outcome


def _bounded() -> None:
    """A config may ask for more memory than there is; then the sentence for that is due."""
    limit = 3 << 30
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))


def _all(outcome: Outcome, trials: int, one: Callable[[], str]) -> list[str]:
    """Try many; returns what those gave that were accepted."""
    accepted = []
    for _ in range(trials):
        started, before = time.process_time(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        outcome.trials += 1
        try:
            accepted.append(one())
            outcome.count("accepted")
        except (UserError, ValueError, TypeError) as error:
            outcome.count("refused")
            lines = str(error).splitlines()
            fine = bool(str(error).strip()) and len(lines) == 1 and len(str(error)) < 2000
            outcome.check(fine, f"{type(error).__name__}, {len(lines)} lines: {str(error)[:300]!r}")
        except Exception as error:
            outcome.check(False, f"{type(error).__name__}: {str(error)[:300]}")
        seconds = time.process_time() - started
        outcome.most("longest, CPU s", seconds, 2)
        outcome.check(seconds < MOST_SECONDS, f"{seconds:.1f} s")
        grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
        outcome.check(grown < MOST_BYTES, f"{grown / 1e6:.0f} MB")
    return accepted


def overrides(program: Program, trials: int) -> Outcome:
    """`--set` with odd names and values."""
    outcome, draw = Outcome(), seeded("overrides")
    config = load_config(program.config)
    names = [f"{s}.{k}" for s, section in config.to_dict().items() for k in section]

    def one() -> str:
        given = []
        for _ in range(draw.randint(1, 3)):
            name = (
                draw.choice(names) if draw.random() < 0.8 else draw.choice(ODD) + draw.choice(names)
            )
            given.append(f"{name}{draw.choice(('=', '=', '=', '', '==', ' = '))}{draw.choice(ODD)}")
        load_config(program.config, given)
        return " ".join(given)

    _all(outcome, trials, one)
    return outcome


def arguments(program: Program, trials: int) -> Outcome:
    """The command line's other options, on the real program."""
    outcome, draw = Outcome(), seeded("arguments")
    options: tuple[str, ...] = (
        "-metrics",
        "--seed",
        "--print_freq",
        "--save_freq",
        "--num_samples",
        "--device",
    )
    options += (
        "--precision",
        "--extractor",
        "-ckpt",
        "--background",
        "--num_workers",
        "-data",
        "-cfg",
    )
    for _ in range(trials):
        option, value = draw.choice(options), draw.choice(ODD).replace("\0", "")
        run = program.place("odd")
        more = ["--set", "OPTIMIZATION.total_steps=1", "--dry-run", option, value]
        ended = program.run(program.train(run, *more))
        outcome.trials += 1
        outcome.count(f"status {ended.status}")
        said = ended.status == 0 or (ended.status == USER_ERROR and "error: " in ended.said)
        outcome.check(
            said and "Traceback" not in ended.said, f"{option} {value!r}: {ended.said[-500:]}"
        )
    return outcome


VALUES: tuple[object, ...] = (
    *(
        None,
        True,
        False,
        0,
        1,
        -1,
        0.5,
        1.0,
        1.5,
        float("nan"),
        float("inf"),
        -float("inf"),
        10**30,
    ),
    *(
        "",
        "top",
        "bottom",
        "epoch",
        "rank",
        "global",
        "kept",
        "batch",
        "x",
        [],
        (),
        {},
        [1],
        b"top",
    ),
    *(torch.tensor(0.5), torch.tensor([1, 2]), object, 1j, 10**400),
)


def python(program: Program, trials: int) -> Outcome:
    """KSchedule, TopK and keep_mask with odd arguments."""
    outcome, draw = Outcome(), seeded("python")

    def any_of(*good: Any) -> Any:
        return draw.choice(good) if draw.random() < 0.6 else draw.choice(VALUES)

    def one() -> str:
        which = draw.randrange(3)
        if which == 0:
            schedule = KSchedule(any_of(0.9, 1.0), any_of(0.5), any_of("epoch", 10))
            schedule.k(any_of(0, 3.0), any_of(8, 64))
        elif which == 1:
            TopK(
                any_of(KSchedule(0.9, 0.5)),
                policy=any_of("top", "balanced"),
                scope=any_of("rank"),
                normalize=any_of("kept"),
                higher_is_better=any_of(True, False),
            )
        else:
            kept = keep_mask(
                any_of(torch.randn(8), torch.full((2, 4), float("nan")), torch.zeros(0)),
                any_of(1, 3, torch.tensor(2)),
                policy=any_of("top", "bottom", "random", "balanced"),
                labels=any_of(torch.zeros(8, dtype=torch.long)),
            )
            if kept.dtype is not torch.bool:
                raise AssertionError("the mask is not a mask")
        return str(which)

    _all(outcome, trials, one)
    return outcome


READ = "a plan, or one sentence and no traceback; under 5 s and 1 GB"
FAULTS = (
    Fault(
        "configs",
        "the shipped YAML files with random changes: types, nesting, anchors, alias bombs, "
        "unicode, huge numbers, keys twice, tags such as !!python/object",
        f"{READ}; of those that are configs one in 50 files is planned by `train --dry-run`",
        files,
        250,
        5000,
    ),
    Fault("overrides", "`--set` with odd names and values", READ, overrides, 250, 5000),
    Fault("arguments", "odd values of the other options of `train`", READ, arguments, 0, 100),
    Fault(
        "python",
        "odd arguments of KSchedule, TopK and keep_mask",
        "work, or one sentence in a ValueError or TypeError",
        python,
        500,
        5000,
    ),
)
