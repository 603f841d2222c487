"""`topk-plugin schedule`: k over a run; docs/schedule.md prints what the command does."""

import math
import re
import shlex

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from tests.cli.helpers import ROOT, Program
from topk_plugin import KSchedule, TopK
from topk_plugin.gate.schedule import gamma_to_reach

PAGE = (ROOT / "docs" / "schedule.md").read_text(encoding="utf-8")
RUN = "--images 50000 --batch 64 --steps 100000"


@pytest.fixture
def printed(program: Program):
    def run(arguments: str, status: int = 0) -> str:
        done = program("schedule", *arguments.split())
        assert done.status == status, done.err
        assert "Traceback" not in done.err
        return done.out if status == 0 else done.err

    return run


def table(out: str) -> list[tuple[int, int]]:
    """(step, k) of the rows."""
    rows = re.findall(r"^ +([\d,]+) +\d+% +[\d,]+ +(\d+) +[\d.]+% ", out, re.M)
    return [(int(step.replace(",", "")), int(k)) for step, k in rows]


@pytest.mark.parametrize(
    ("more", "every", "updates"),
    [("", "epoch", 1), ("--d_updates_per_step 5", "epoch", 5), ("--every 700", 700, 1)],
)
@pytest.mark.parametrize("release", ["", "--release_from 60% --release_to 80%"])
def test_the_table_is_what_a_loop_counts(printed, more, every, updates, release) -> None:
    """The slow way: step for step, epoch for epoch, with the TopK that the command prints."""
    out = printed(f"schedule {RUN} --nu 0.5 {more} {release}".removeprefix("schedule "))
    topk = eval(out.rpartition("Python:  ")[2], {"TopK": TopK, "KSchedule": KSchedule})
    schedule = topk.schedule
    assert schedule.every == every
    shown = dict(table(out))
    assert len(shown) == 21
    steps_each = 50_000 / (64 * updates) if every == "epoch" else every
    over, k, seen, floor_from = 0, 64, {0: 64}, None
    for step in range(1, 100_001):
        if step >= (over + 1) * steps_each:
            over += 1
            k = schedule.k(over, 64)
            floor_from = step if floor_from is None and k == 32 else floor_from
        if step in shown:
            seen[step] = k
    assert seen == shown
    assert f"k: at its floor from step {floor_from:,}" in out
    assert "k: from 64 to 32 of 64" in out
    assert 0 < floor_from < (32_000 if release else 52_000)
    settings = yaml.safe_load(out.rpartition("YAML:    ")[2].partition("\n")[0])["LOSS"]
    assert settings["topk_gamma"] == schedule.gamma
    assert settings.get("topk_every", "epoch") == every
    assert settings.get("topk_release_from") == ("60%" if release else None)


def test_the_share_that_is_kept(printed) -> None:
    out = printed(f"{RUN} --nu 0.25 --gamma 0.9")
    schedule = KSchedule(0.9, 0.25)
    kept = [schedule.k(math.floor(step / 781.25), 64) / 64 for step in range(100_000)]
    assert f"kept over the whole run: {sum(kept) / len(kept):.1%}" in out


@given(st.floats(0.01, 0.99), st.integers(1, 3000))
def test_gamma_reaches_the_floor_in_time_and_not_much_sooner(nu: float, progress: int) -> None:
    gamma = gamma_to_reach(nu, progress)
    assert gamma <= 0.9999
    if gamma > 0:
        assert KSchedule(gamma, nu).progress_to_floor <= progress + 1e-6
    if gamma + 1e-4 < 1:
        assert KSchedule(gamma + 1e-4, nu).progress_to_floor > progress - 1e-6


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (f"{RUN} --gamma 0.9999", "would reach its floor at step"),
        (f"{RUN} --nu 1", "top-k does nothing here"),
        (f"{RUN} --nu 0.5 --release_from 140 --release_to 150 --gamma 0.9", "after the last step"),
        ("--images 50000 --batch 8 --steps 100000 --nu 0.5", "k of 4 is coarse"),
    ],
)
def test_what_it_notes(printed, arguments: str, part: str) -> None:
    assert part in printed(arguments)


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (f"{RUN} --nu 2", "--nu must be a number above 0"),
        (f"{RUN} --gamma nan", "--gamma must be a number above 0"),
        (f"{RUN} --gamma 0.9 --floor_at 20", "give one of them"),
        (f"{RUN} --floor_at 0", "is a percentage"),
        (f"{RUN} --release_from 60%", "--release_to must be given too"),
        (f"{RUN} --release_from sixty --release_to 80%", "'sixty'"),
        (f"{RUN} --release_from 120% --release_to 3", "from 0% to 100%"),
        (f"{RUN} -save k.jpg", ".png"),
        ("--images 50000 --batch 64 --steps 1000", "give --every 10,"),
        ("--images 50 --batch 64 --steps 1000", "an epoch is no unit here"),
        ("--images 0 --batch 64 --steps 1000", "above 0"),
    ],
)
def test_what_it_refuses(printed, arguments: str, part: str) -> None:
    assert part in printed(arguments, status=2)


def test_the_picture(printed, tmp_path) -> None:
    printed(f"{RUN} --nu 0.5 -save {tmp_path / 'k.png'}")
    assert Image.open(tmp_path / "k.png").size == (770, 352)


def test_the_page_prints_what_the_command_prints(program: Program) -> None:
    blocks = re.findall(r"```\n(.*?)```", PAGE, re.S)
    outputs, compared = "", 0
    for block in blocks:
        if block.startswith("topk-plugin schedule"):
            outputs = program(*shlex.split(block)[1:]).out
        else:
            assert block in outputs
            compared += 1
    assert compared == 4
    assert KSchedule(0.99, 0.5).fraction(30) == pytest.approx(0.74, abs=0.005)
    assert KSchedule(0.99, 0.5).fraction(10) == pytest.approx(0.90, abs=0.005)
    assert KSchedule(0.9989, 0.5).progress_to_floor <= 640 < 640 * 1.02
