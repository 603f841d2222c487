"""What the log says at the start about where k goes, against the schedule step by step."""

import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.studiogan.small_worker import configurations
from topk_plugin import KSchedule
from topk_plugin.studiogan.flags import TopKFlags
from topk_plugin.studiogan.plan_line import plan_line


def line(
    *,
    progress: int = 0,
    batch_size: int = 16,
    step: int = 0,
    total_steps: int = 10_000,
    steps_each: float = 100.0,
    **loss: Any,
) -> str:
    flags = TopKFlags.of(configurations(**loss))
    assert flags is not None
    return plan_line(
        flags,
        progress=progress,
        batch_size=batch_size,
        step=step,
        total_steps=total_steps,
        steps_each=steps_each,
    )


def test_it_says_what_is_on_and_where_k_goes() -> None:
    # 16 * 0.9 ** 6 is 8.5 already, so k is 8 an epoch before the fraction is 0.5
    assert line() == (
        "Top-k: gate, policy top, scope rank, normalize kept; k is 16 of 16 now (after 0 epochs), "
        "8 at its floor, reached at about step 600 of 10000."
    )
    assert "(after 3 blocks of 5 updates), 8 at" in line(topk_every=5, progress=3, step=700)
    assert line(progress=3, step=350).endswith("reached at about step 650 of 10000.")
    assert line(progress=6, step=350).endswith("8 at its floor, reached.")


@pytest.mark.parametrize(
    ("said", "given_"),
    [
        ("Lower LOSS.topk_gamma for k to reach it in this run.", {"total_steps": 599}),
        ("top-k does nothing here. Lower LOSS.topk_gamma, which is 1.", {"topk_gamma": 1}),
        ("top-k does nothing here. Lower LOSS.topk_nu, or enlarge", {"topk_nu": 1}),
        ("top-k does nothing here. Lower LOSS.topk_nu, or enlarge", {"batch_size": 1}),
    ],
)
def test_a_remedy(said: str, given_: dict[str, Any]) -> None:
    assert said in line(**given_)
    assert said not in line()


@given(
    gamma=st.floats(0.3, 0.999),
    nu=st.floats(0.05, 0.99),
    batch_size=st.integers(2, 300),
    progress=st.integers(0, 50),
)
def test_the_step_of_the_floor_against_a_walk(
    gamma: float, nu: float, batch_size: int, progress: int
) -> None:
    schedule = KSchedule(gamma, nu)
    smallest = schedule.k(10**6, batch_size)
    at = progress
    while schedule.k(at, batch_size) > smallest:
        at += 1
    said = line(
        topk_gamma=gamma, topk_nu=nu, batch_size=batch_size, progress=progress, step=7, steps_each=3
    )
    assert f"k is {schedule.k(progress, batch_size)} of {batch_size} now" in said
    assert f" {smallest} at its floor" in said
    found = re.search(r"at about step (\d+) of", said)
    if smallest == batch_size:
        assert "does nothing" in said
    elif at == progress:
        assert said.endswith("reached.")
    else:
        assert found is not None
        assert int(found[1]) == 7 + 3 * (at - progress)
