"""k over the training, against exact decimal arithmetic."""

import math
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from topk_plugin import KSchedule

DECIMALS = st.integers(1, 1000).map(lambda thousandths: Fraction(thousandths, 1000))


@given(gamma=DECIMALS, nu=DECIMALS, epoch=st.integers(0, 60), batch=st.integers(1, 2048))
def test_k_is_the_exact_floor(gamma: Fraction, nu: Fraction, epoch: int, batch: int) -> None:
    exact = max(1, math.floor(max(gamma**epoch, nu) * batch))
    assert KSchedule(float(gamma), float(nu)).k(epoch, batch) == exact


def test_decimal_settings_are_taken_as_meant() -> None:
    assert 0.57 * 100 < 57  # what a plain floor would trip over
    assert KSchedule(0.5, 0.57).k(10, 100) == 57


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
    assert now >= math.floor(nu * batch)
    assert schedule.k(0, batch) == batch


def test_progress_to_floor() -> None:
    assert KSchedule(0.99, 0.75).progress_to_floor == pytest.approx(28.62, abs=0.01)
    assert KSchedule(0.99, 0.5).progress_to_floor == pytest.approx(68.97, abs=0.01)
    assert KSchedule(1.0, 0.5).progress_to_floor == math.inf
    assert KSchedule(0.9, 1.0).progress_to_floor == 0.0


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
