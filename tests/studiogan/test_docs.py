"""What docs/studiogan.md says is true."""

import math
import re
import shlex
from pathlib import Path

import pytest

from topk_plugin.gate.schedule import KSchedule
from topk_plugin.studiogan.fixes.registry import FIXES
from topk_plugin.studiogan.flags import DEFAULTS

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "studiogan.md").read_text(encoding="utf-8")


def table(title: str) -> tuple[list[float], dict[float, list[float]]]:
    """The floors and rows of the table under the comment ``title``."""
    lines = PAGE.partition(f"<!-- {title} -->\n")[2].partition("\n\n")[0].splitlines()
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    floors = [float(cell.removeprefix("nu ")) for cell in cells[0][1:]]
    return floors, {float(row[0]): [float(cell) for cell in row[1:]] for row in cells[2:]}


def test_epochs_to_the_floor() -> None:
    floors, rows = table("epochs to the floor")
    assert len(floors) == 4
    assert len(rows) == 6
    for gamma, epochs in rows.items():
        assert epochs == [math.ceil(KSchedule(gamma, nu).progress_to_floor) for nu in floors]


def test_gamma_for_the_floor_at_half_of_the_run() -> None:
    floors, rows = table("gamma for the floor at half")
    assert len(rows) == 6
    for epochs, gammas in rows.items():
        for nu, gamma in zip(floors, gammas, strict=True):
            assert KSchedule(gamma, nu).progress_to_floor <= epochs / 2
            assert KSchedule(round(gamma + 1e-4, 4), nu).progress_to_floor > epochs / 2


@pytest.mark.parametrize(("flag", "default"), DEFAULTS.items())
def test_flags_and_their_defaults(flag: str, default: str) -> None:
    row = next(line for line in PAGE.splitlines() if line.startswith(f"| `{flag}`"))
    shown = row.split("|")[3].strip()
    without = "`global` with `-DDP`, else `rank`" if flag == "topk_scope" else "off"
    assert shown == (without if default == "N/A" else f"`{default}`")


def test_every_fix_has_a_row_and_no_other() -> None:
    section = PAGE.partition("## What lets StudioGAN run today")[2].partition("\n## ")[0]
    assert re.findall(r"^\| `(\w+)` \|", section, re.MULTILINE) == [fix.name for fix in FIXES]


def test_the_five_commands_are_those_of_the_readme() -> None:
    blocks = re.findall(r"```\n(.*?)```", PAGE, re.DOTALL)
    five = blocks[0].splitlines()
    assert len(five) == 5
    assert blocks[0] in (ROOT / "README.md").read_text(encoding="utf-8")
    config = shlex.split(five[3])[shlex.split(five[3]).index("-cfg") + 1]
    assert (ROOT / config).is_file()
