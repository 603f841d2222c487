"""k over the training, against exact decimal arithmetic."""

import dataclasses
import json
import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from topk_plugin import KSchedule

DECIMALS = st.integers(1, 1000).map(lambda thousandths: Fraction(thousandths, 1000))


@given(gamma=DECIMALS, nu=DECIMALS, epoch=st.integers(0, 60), batch=st.integers(1, 2048))
def test_k_is_the_exact_floor(gamma: Fraction, nu: Fraction, epoch: int, batch: int) -> None:
    exact = max(math.floor(gamma**epoch * batch), math.ceil(nu * batch))
    assert KSchedule(float(gamma), float(nu)).k(epoch, batch) == exact


def test_decimal_settings_are_taken_as_meant() -> None:
    assert 0.57 * 100 < 57  # what a plain floor would trip over
    assert KSchedule(0.5, 0.57).k(10, 100) == 57
    assert 0.07 * 100 > 7
    assert KSchedule(0.5, 0.07).k(10, 100) == 7


def test_nu_is_a_floor() -> None:
    """k <- max(gamma k, nu B): 2 of 5 would be under nu B = 2.5."""
    assert [KSchedule(0.5, 0.5).k(epoch, 5) for epoch in (0, 1, 9)] == [5, 3, 3]


def test_truncation_is_not_compounded() -> None:
    schedule = KSchedule(gamma=0.99, nu=0.5)
    ks = [schedule.k(epoch, 64) for epoch in range(80)]
    assert ks.index(32) == 66  # 64 * 0.99 ** 66 = 32.97; int(k * gamma) is there after 32 epochs
    compounded, epochs = 64, 0
    while compounded > 32:
        compounded, epochs = int(compounded * 0.99), epochs + 1
    assert epochs == 32


@given(
    gamma=st.floats(0.01, 1.0),
    nu=st.floats(0.01, 1.0),
    batch=st.integers(1, 512),
    progress=st.floats(0, 1e4),
)
def test_k_never_rises_and_keeps_its_bounds(
    gamma: float, nu: float, batch: int, progress: float
) -> None:
    schedule = KSchedule(gamma, nu)
    now, later = schedule.k(progress, batch), schedule.k(progress + 1, batch)
    assert 1 <= later <= now <= batch
    assert now >= nu * batch - 1e-9
    assert schedule.k(0, batch) == batch


def test_progress_to_floor() -> None:
    assert KSchedule(0.99, 0.75).progress_to_floor == pytest.approx(28.62, abs=0.01)
    assert KSchedule(0.99, 0.5).progress_to_floor == pytest.approx(68.97, abs=0.01)
    assert KSchedule(1.0, 0.5).progress_to_floor == math.inf
    assert KSchedule(0.9, 1.0).progress_to_floor == 0.0


@given(
    gamma=DECIMALS,
    nu=DECIMALS,
    ends=st.tuples(st.integers(0, 40), st.integers(0, 40)).map(sorted),
    epoch=st.integers(0, 60),
    batch=st.integers(1, 2048),
)
def test_k_of_a_release_is_the_exact_floor(
    gamma: Fraction, nu: Fraction, ends: list[int], epoch: int, batch: int
) -> None:
    begin, end = ends
    fraction = max(gamma ** min(epoch, begin), nu)
    if epoch >= begin:
        fraction += (1 - fraction) * (Fraction(epoch - begin, end - begin) if epoch < end else 1)
    schedule = KSchedule(float(gamma), float(nu), release_from=begin, release_to=end)
    assert schedule.k(epoch, batch) == max(math.floor(fraction * batch), math.ceil(nu * batch))


def test_a_release_in_numbers() -> None:
    """What a user reads in the plan: 64, 32 from epoch 1, back to 64 between 3 and 5."""
    schedule = KSchedule(0.5, 0.5, release_from=3, release_to=5)
    assert [schedule.k(epoch, 64) for epoch in range(7)] == [64, 32, 32, 32, 48, 64, 64]
    at_once = KSchedule(0.5, 0.5, release_from=3, release_to=3)
    assert [at_once.k(epoch, 64) for epoch in range(5)] == [64, 32, 32, 64, 64]


@given(
    gamma=st.floats(0.01, 1.0),
    nu=st.floats(0.01, 1.0),
    begin=st.floats(0, 40),
    length=st.floats(0, 20),
    batch=st.integers(1, 64),
)
def test_the_lowest_point_is_where_the_properties_say(
    gamma: float, nu: float, begin: float, length: float, batch: int
) -> None:
    plain = KSchedule(gamma, nu)
    schedule = KSchedule(gamma, nu, release_from=begin, release_to=begin + length)
    whole = range(65)
    assert schedule.lowest_k(batch) == min(schedule.k(p, batch) for p in whole)
    lowest = schedule.lowest_fraction
    if gamma < 1.0:
        reached = min(schedule.progress_to_floor, begin)
        assert schedule.fraction(math.nextafter(reached, 0)) == pytest.approx(lowest, abs=1e-6)
    for p in (0.0, begin / 2, begin, begin + length / 2, begin + length, 1e4):
        assert schedule.fraction(p) >= lowest - 1e-12
        assert schedule.k(p, batch) >= plain.k(p, batch)


def test_lowest_k_without_a_release() -> None:
    assert KSchedule(0.9, 0.5).lowest_k(64) == 32
    assert KSchedule(0.9, 0.99).lowest_k(64) == 64  # nu B = 63.4
    assert KSchedule(1.0, 0.5).lowest_k(64) == 64
    assert KSchedule(0.9, 0.5, release_from=0, release_to=9).lowest_k(64) == 64


def test_numpy_numbers_are_numbers() -> None:
    schedule = KSchedule(
        np.float64(0.9), np.float32(0.5), np.int64(5), np.int32(3), np.float64(4.5)
    )
    assert schedule == KSchedule(0.9, 0.5, 5, 3, 4.5)
    json.dumps(dataclasses.asdict(schedule))


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"gamma": 0.0}, "gamma"),
        ({"gamma": 1.5}, "gamma"),
        ({"gamma": float("nan")}, "gamma"),
        ({"gamma": "N/A"}, "gamma"),
        ({"nu": -0.1}, "nu"),
        ({"nu": True}, "nu"),
        ({"every": 0}, "every"),
        ({"every": "step"}, "every"),
        ({"every": 2.5}, "every"),
        ({"every": True}, "every"),
        ({"every": np.int64(0)}, "every"),
        ({"release_from": 3}, "release_to"),
        ({"release_to": 3}, "release_from"),
        ({"release_from": -1, "release_to": 3}, "release_from"),
        ({"release_from": 1, "release_to": math.inf}, "release_to"),
        ({"release_from": "50%", "release_to": 3}, "release_from"),
        ({"release_from": 3, "release_to": 2}, "release_to"),
    ],
)
def test_wrong_arguments_are_named(arguments: dict, named: str) -> None:
    with pytest.raises(ValueError, match=f"^{named} must be"):
        KSchedule(**arguments)


def test_wrong_progress_and_batch_are_named() -> None:
    with pytest.raises(ValueError, match="progress"):
        KSchedule().fraction(-1)
    with pytest.raises(ValueError, match="batch_size"):
        KSchedule().k(0, 0)


@given(
    st.floats(0.3, 0.99),
    st.floats(0.05, 1),
    st.none() | st.tuples(st.floats(0, 60), st.floats(0, 30)),
    st.integers(1, 300),
)
def test_the_lowest_k_is_met_first_where_a_walk_meets_it(
    gamma: float, nu: float, release: tuple[float, float] | None, batch_size: int
) -> None:
    ends = (None, None) if release is None else (release[0], sum(release))
    schedule = KSchedule(gamma, nu, "epoch", *ends)
    walk = [schedule.k(progress, batch_size) for progress in range(400)]
    assert walk[schedule.progress_to_lowest_k(batch_size)] == min(walk)
    assert walk.index(min(walk)) == schedule.progress_to_lowest_k(batch_size)


def test_numbers_beyond_any_float_are_refused() -> None:
    schedule = KSchedule(0.9, 0.5)
    with pytest.raises(ValueError, match="progress must be 0 or more"):
        schedule.fraction(10**400)
    with pytest.raises(ValueError, match="batch_size must be 1 or more"):
        schedule.k(0, 10**400)
    with pytest.raises(ValueError, match="gamma must be a number"):
        KSchedule(10**400, 0.5)
    with pytest.raises(ValueError, match="release_from must be a progress"):
        KSchedule(0.9, 0.5, release_from=10**400, release_to=1)
    assert schedule.k(float("inf"), 8) == 4
