"""The results of all faults: a file each, with what was lost, and the table of the page."""

import json
import re
import shlex
from pathlib import Path
from typing import Any

from benchmarks.faults.fault import Fault, Outcome
from topk_plugin.base.environment import environment
from topk_plugin.base.files import write_json

FOLDER = Path(__file__).resolve().parents[1] / "results" / "faults"


def store(
    folder: Path, fault: Fault, outcome: Outcome, seconds: float, command: list[str], day: str
) -> None:
    """Write the result of a fault, in place of an earlier one.

    Raises:
        UserError: the folder can't be written.
    """
    found = environment()
    write_json(
        folder / f"{file_name(fault.name, command)}.json",
        {
            "name": fault.name,
            "what": fault.what,
            "goal": fault.goal,
            "trials": outcome.trials,
            "lost": len(outcome.lost),
            "lost_what": outcome.lost[:20],
            "notes": outcome.notes,
            "seconds": round(seconds),
            "started_by": shlex.join(command),
            "command": f"python -m benchmarks.faults --only {fault.name} --trials {outcome.trials}"
            + (f" --command {shlex.quote(shlex.join(command))}" if command else ""),
            "date": day,
            "torch": found["torch"],
        },
    )


def file_name(name: str, command: list[str]) -> str:
    """The name of a fault's file; another way to start the program has one of its own."""
    return "-".join([name, *re.findall(r"[a-zA-Z0-9]+", " ".join(command))])


def table(sections: dict[str, tuple[Fault, ...]], folder: Path = FOLDER) -> str:
    """Markdown: every fault, how often it was tried, what was lost, and the command for it."""
    lines: list[str] = []
    for title, faults in sections.items():
        lines += [f"### {title}", ""]
        lines += [
            "| what happens | what must hold | tried | lost | seen | again |",
            "|---" * 6 + "|",
        ]
        for fault in faults:
            lines += [_row(fault, entry) for entry in _entries(folder, fault)]
        lines.append("")
    return "\n".join(lines)


def _entries(folder: Path, fault: Fault) -> list[dict[str, Any] | None]:
    read = (json.loads(p.read_text(encoding="utf-8")) for p in sorted(folder.glob("*.json")))
    return [entry for entry in read if entry["name"] == fault.name] or [None]


def _row(fault: Fault, entry: dict[str, Any] | None) -> str:
    if entry is None:
        command = f"python -m benchmarks.faults --only {fault.name}"
        return f"| {fault.what} | {fault.goal} | not yet | | | `{command}` |"
    started = f" (`{entry['started_by']}`)" if entry["started_by"] else ""
    notes = ", ".join(f"{name} {value}" for name, value in entry["notes"].items())
    lost = "nothing" if not entry["lost"] else f"**{entry['lost']}**"
    cells = [fault.what + started, fault.goal, f"{entry['trials']:,}", lost, notes]
    command = f"--only {fault.name}"
    return f"| {' | '.join(cells)} | `{command}` |"
