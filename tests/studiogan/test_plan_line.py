"""What the log says at the start about where k goes, against the schedule step by step."""

import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.studiogan.small_worker import configurations
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
    flags = TopKFlags.of(configurations(total_steps=total_steps, **loss))
    assert flags is not None
    return plan_line(
        flags,
        flags.schedule(steps_each),
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
        "8 at its floor from about step 600; the run ends at step 10000."
    )
    assert "(after 3 blocks of 5 updates), 8 at" in line(topk_every=5, progress=3, step=700)
    assert "8 at its floor from about step 650;" in line(progress=3, step=350)
    assert line(progress=6, step=350).endswith(
        "k is 8 of 16 now (after 6 epochs), its floor; the run ends at step 10000."
    )


RELEASE = {"topk_release_from": "30%", "topk_release_to": "60%"}


@pytest.mark.parametrize(
    ("progress", "said"),
    [
        (0, "k is 16 of 16 now (after 0 epochs), 8 at its floor from about step 600, back to 16 "),
        (0, ", back to 16 from step 3000 to 6000; the run ends at step 10000."),
        (20, "k is 8 of 16 now (after 20 epochs), its floor, back to 16 from step 3000 to 6000;"),
        (45, "k is 12 of 16 now (after 45 epochs), back to 16 from step 4500 to 6000;"),
        (60, "k is 16 of 16 now (after 60 epochs), released; the run"),
    ],
)
def test_a_release(progress: int, said: str) -> None:
    assert said in line(progress=progress, step=100 * progress, **RELEASE)


@pytest.mark.parametrize(
    ("said", "given_"),
    [
        ("Lower LOSS.topk_gamma for k to reach its floor in this run.", {"total_steps": 599}),
        ("top-k does nothing here. Lower LOSS.topk_gamma, which is 1.", {"topk_gamma": 1}),
        ("top-k does nothing here. Lower LOSS.topk_nu, or enlarge", {"topk_nu": 1}),
        ("top-k does nothing here. Lower LOSS.topk_nu, or enlarge", {"batch_size": 1}),
        (
            "Lower LOSS.topk_release_from for k to be released in this run.",
            {"topk_release_from": 101, "topk_release_to": 102},
        ),
        (
            "top-k does nothing here. Raise LOSS.topk_release_from",
            {"topk_release_from": 0, "topk_release_to": "60%"},
        ),
    ],
)
def test_a_remedy(said: str, given_: dict[str, Any]) -> None:
    assert said in line(**given_)
    assert said not in line()
    assert said not in line(**RELEASE)


@given(
    gamma=st.floats(0.3, 0.999),
    nu=st.floats(0.05, 0.99),
    batch_size=st.integers(2, 300),
    progress=st.integers(0, 50),
    release=st.none() | st.tuples(st.floats(0.1, 100), st.floats(0, 50)),
)
def test_the_step_of_the_floor_against_a_walk(
    gamma: float, nu: float, batch_size: int, progress: int, release: tuple[float, float] | None
) -> None:
    loss: dict[str, Any] = {"topk_gamma": gamma, "topk_nu": nu}
    if release is not None:
        begin, length = release
        loss |= {"topk_release_from": begin, "topk_release_to": begin + length}
    schedule = TopKFlags.of(configurations(**loss)).schedule(1)
    smallest = min(schedule.k(p, batch_size) for p in range(10_000))
    first = next(p for p in range(10_000) if schedule.k(p, batch_size) == smallest)
    said = line(**loss, batch_size=batch_size, progress=progress, step=7, steps_each=3)
    assert f"k is {schedule.k(progress, batch_size)} of {batch_size} now" in said
    found = re.search(r"(\d+) at its floor from about step (\d+)", said)
    if smallest == batch_size:
        assert "does nothing" in said
    elif first <= progress:
        assert found is None
    else:
        assert found is not None
        assert (int(found[1]), int(found[2])) == (smallest, 7 + 3 * (first - progress))
