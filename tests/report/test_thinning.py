"""Curves and pictures that are made to fit."""

import io
from itertools import pairwise

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from topk_plugin.report.run import Picture, Series
from topk_plugin.report.thinning import fitting, spread_out, thinned

values = st.lists(st.floats(-1e6, 1e6) | st.just(float("nan")), min_size=1, max_size=400)


@given(values, st.integers(2, 60))
def test_a_thinned_curve_keeps_its_ends_and_extremes(found: list[float], most: int) -> None:
    series = Series(np.arange(len(found), dtype=float) * 3, np.array(found))
    few = thinned(series, most)
    assert len(few.steps) <= max(most + 2, min(len(found), most))
    assert (few.steps[0], few.steps[-1]) == (series.steps[0], series.steps[-1])
    assert (np.diff(few.steps) > 0).all()
    np.testing.assert_array_equal(few.values, series.values[(few.steps / 3).astype(int)])
    if not np.isnan(series.values).all():
        assert np.nanmax(few.values) == np.nanmax(series.values)
        assert np.nanmin(few.values) == np.nanmin(series.values)


@given(st.integers(1, 500), st.integers(2, 50))
def test_places_are_evenly_spread(count: int, most: int) -> None:
    places = spread_out(count, most)
    assert places[0] == 0
    assert places[-1] == count - 1
    assert len(places) == min(count, most)
    gaps = [b - a for a, b in pairwise(places)]
    assert not gaps or max(gaps) - min(gaps) <= 1


def picture(step: int, seed: int) -> Picture:
    """Noise, which no format makes small."""
    pixels = np.random.default_rng(seed).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    content = io.BytesIO()
    Image.fromarray(pixels).save(content, format="PNG")
    return Picture(step, content.getvalue())


def test_pictures_fit_the_budget_and_the_last_is_among_them() -> None:
    pictures = [picture(10 * i, i) for i in range(12)]
    whole = fitting(pictures, 10_000_000)
    assert [step for step, _ in whole] == [p.step for p in pictures]
    each = max(len(content) for _, content in whole)
    for budget in (4 * each, each, 1):
        found = fitting(pictures, budget)
        assert found[-1][0] == 110
        assert len(found) == 1 or sum(len(content) for _, content in found) <= budget
    assert len(fitting(pictures, 4 * each)) in (3, 4)
    with Image.open(io.BytesIO(whole[0][1])) as image:
        assert image.size == (64, 64)


def test_a_picture_that_is_being_written_is_left_out() -> None:
    half = Picture(20, picture(0, 0).read()[:100])
    assert [step for step, _ in fitting([picture(10, 1), half], 1_000_000)] == [10]
    assert fitting([half], 1_000_000) == []
