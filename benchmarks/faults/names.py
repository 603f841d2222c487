"""Names: of folders, and of classes."""

import shutil
from pathlib import Path

from benchmarks.faults.compare import differences
from benchmarks.faults.fault import Fault, Outcome
from benchmarks.faults.program import Program

NAMES = (
    *(
        "a b",
        " ",
        "'",
        '"',
        'it\'s "it"',
        "$(touch x)",
        "`x`",
        "a;b",
        "&",
        "*",
        "?",
        "[a]",
        "{a}",
        "~",
    ),
    *(
        "-save",
        "--set",
        "%s",
        "\\",
        "a\nb",
        "\t",
        "é",
        "日本語",
        "\u202egnp",
        "\U0001f600",
        "e\u0301",
    ),
    *(
        "<script>alert(1)</script>".replace("/", "∕"),
        "x" * 255,
        "é" * 127,
        "null",
        "con",
        "...",
        "a=b,c",
    ),
)


def folders(program: Program, trials: int) -> Outcome:
    """Runs into folders of these names."""
    outcome = Outcome()
    for name in NAMES[:trials]:
        run = program.place("named") / name
        ended = program.run(program.train(run, "-metrics", "fid"))
        outcome.trials += 1
        found = differences(program.undisturbed(), run) if ended.status == 0 else ended.said
        outcome.check(not found, f"{name!r}: {found}")
    return outcome


def classes(program: Program, trials: int) -> Outcome:
    """Class folders of these names."""
    outcome = Outcome()
    # a name that begins with a dot is hidden, and left out as such
    names = [name for name in NAMES if not name.startswith(".")][:trials]
    for name in names:
        data = program.place("data")
        shutil.copytree(program.data, data)
        (data / "class1").rename(data / name)
        info = program.run(["data", "info", str(data), "--img_size", "32"])
        run = program.place("classes")
        ended = program.run(program.train(run, "-metrics", "none", data=data))
        outcome.trials += 1
        fine = info.status == 0 and ended.status == 0
        outcome.check(fine, f"{name!r}: {info.said[-300:]} {ended.said[-600:]}")
        outcome.check(not _raw(run, name), f"{name!r} stands as it is in {_raw(run, name)}")
    return outcome


def _raw(run: Path, name: str) -> str:
    """A page of the run that holds the name unescaped."""
    for page in run.rglob("*.html"):
        if "<" in name and name in page.read_text(encoding="utf-8"):
            return page.name
    return ""


FAULTS = (
    Fault(
        "folder-names",
        "runs in folders named with spaces, quotes, newlines, options, unicode, 255 bytes",
        "as undisturbed",
        folders,
        1,
        len(NAMES),
    ),
    Fault(
        "class-names",
        "classes of such names, `<script>` among them",
        "they train; no page of the run holds a name unescaped",
        classes,
        0,
        len(NAMES),
    ),
)
