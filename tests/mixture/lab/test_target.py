"""The grid of Gaussians against the obvious search over all means."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from topk_plugin.mixture.lab.target import Mixture


@given(
    side=st.integers(1, 7),
    spacing=st.floats(0.1, 10.0),
    seed=st.integers(0, 1000),
    spread=st.floats(0.1, 5.0),
)
def test_the_nearest_mean_is_the_nearest(
    side: int, spacing: float, seed: int, spread: float
) -> None:
    target = Mixture(side * side, spacing=spacing)
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(50, 2, generator=generator, dtype=torch.float64) * spread * spacing
    means = target.means(torch.arange(side * side)).double()
    distances = torch.cdist(x, means)
    found = distances.gather(1, target.nearest(x)[:, None]).squeeze(1)
    torch.testing.assert_close(found, distances.min(1).values, rtol=1e-6, atol=1e-6 * spacing)
    torch.testing.assert_close(
        target.offset_to_nearest(x).norm(dim=1), found, rtol=1e-6, atol=1e-6 * spacing
    )


def test_means_are_an_even_grid_around_the_origin() -> None:
    means = Mixture(9, spacing=2.0).means(torch.arange(9))
    assert means.tolist() == [[x, y] for y in (-2.0, 0.0, 2.0) for x in (-2.0, 0.0, 2.0)]


def test_points_that_are_not_finite_do_not_break_the_search() -> None:
    target = Mixture(4)
    x = torch.tensor([[math.nan, 0.0], [math.inf, -math.inf]])
    assert all(0 <= mode < 4 for mode in target.nearest(x).tolist())
    assert not torch.isfinite(target.offset_to_nearest(x).norm(dim=-1)).any()


@given(modes=st.integers(2, 30), seed=st.integers(0, 1000), spread=st.floats(0.1, 5.0))
def test_the_nearest_mean_of_a_ring_is_the_nearest(modes: int, seed: int, spread: float) -> None:
    target = Mixture(modes, layout="ring", spacing=0.7)
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(50, 2, generator=generator, dtype=torch.float64) * spread
    means = target.means(torch.arange(modes)).double()
    distances = torch.cdist(x, means)
    found = distances.gather(1, target.nearest(x)[:, None]).squeeze(1)
    torch.testing.assert_close(found, distances.min(1).values, rtol=1e-6, atol=1e-6)
    beside = torch.linalg.vector_norm(means[0] - means[1]).item()
    assert beside == pytest.approx(0.7, rel=1e-5)


@given(side=st.integers(1, 8), imbalance=st.floats(1.0, 50.0))
def test_shares_fall_by_a_constant_factor(side: int, imbalance: float) -> None:
    shares = Mixture(side * side, imbalance=imbalance).shares
    assert shares.sum().item() == pytest.approx(1)
    ordered = shares.sort(descending=True).values
    if side > 1:
        assert (ordered[0] / ordered[-1]).item() == pytest.approx(imbalance)
        factors = ordered[:-1] / ordered[1:]
        torch.testing.assert_close(factors, factors[:1].expand_as(factors))


def test_modes_are_drawn_as_often_as_their_shares_say() -> None:
    target = Mixture(4, imbalance=8.0)
    drawn = target.draw((200, 100), torch.Generator().manual_seed(0))
    found = torch.bincount(drawn.flatten(), minlength=4) / drawn.numel()
    torch.testing.assert_close(found.double(), target.shares, atol=0.02, rtol=0)
    assert sorted(target.shares.tolist()) != target.shares.tolist()  # scattered over the plane


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"modes": 24}, "square number"),
        ({"modes": 0}, "square number"),
        ({"std": 0.0}, "std must be a number above 0"),
        ({"spacing": math.inf}, "spacing must be a number above 0"),
    ],
)
def test_impossible_grids_are_refused(arguments: dict, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Mixture(**arguments)
