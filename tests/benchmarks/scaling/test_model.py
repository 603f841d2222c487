"""The model of an iteration in many processes, against a ring that is walked step by step."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.scaling.model import (
    Device,
    Link,
    Work,
    all_gather,
    all_reduce,
    first_where_gather_reaches,
    iteration,
)

LINK = Link(latency=1e-5, bandwidth=1e9)
WORK = Work(
    operations=1e10,
    batch=64,
    critic_bytes=4_000_000,
    generator_bytes=8_000_000,
    critic_updates=5,
    selections=1,
    launches=5000,
)
DEVICE = Device(rate=1e13, launch=5e-6)


def walked(processes: int, count: int, rounds: int) -> float:
    """Every process sends its neighbour one of ``processes`` equal parts in every round."""
    seconds = 0.0
    for _ in range(rounds):
        seconds += LINK.latency + count / processes / LINK.bandwidth
    return seconds


@given(processes=st.integers(1, 64), count=st.integers(0, 10**8))
def test_rings(processes: int, count: int) -> None:
    # reduce-scatter, then all-gather
    expected = walked(processes, count, processes - 1) + walked(processes, count, processes - 1)
    assert all_reduce(processes, count, LINK) == pytest.approx(expected, abs=1e-12)
    expected = walked(processes, count, processes - 1)
    assert all_gather(processes, count, LINK) == pytest.approx(expected, abs=1e-12)


def test_an_iteration_is_the_sum_of_its_parts() -> None:
    alone = iteration(WORK, 1, DEVICE, LINK)
    assert alone.gradients == alone.gather == 0
    assert alone.compute == pytest.approx(64 * 1e10 / 1e13)
    assert alone.gather_share == 0
    eight = iteration(WORK, 8, DEVICE, LINK)
    # the launches take longer than an eighth of the arithmetic
    assert eight.compute == pytest.approx(5000 * 5e-6)
    assert eight.gradients == pytest.approx(
        5 * all_reduce(8, 4_000_000, LINK) + all_reduce(8, 8_000_000, LINK)
    )
    assert eight.gather == pytest.approx(all_gather(8, 256, LINK))
    assert eight.total == pytest.approx(eight.compute + eight.gradients + eight.gather)


def test_the_first_number_of_processes_whose_gather_matters() -> None:
    found = first_where_gather_reaches(0.01, WORK, DEVICE, LINK)
    assert found is not None
    assert iteration(WORK, found, DEVICE, LINK).gather_share >= 0.01
    assert iteration(WORK, found // 2, DEVICE, LINK).gather_share < 0.01
    assert first_where_gather_reaches(0.999, WORK, DEVICE, LINK) is None
