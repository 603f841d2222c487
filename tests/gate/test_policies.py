"""keep_mask against the slow obvious selection."""

import itertools
import math
from fractions import Fraction

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from topk_plugin import KSchedule, TopK, keep_mask
from topk_plugin.gate.policies import POLICIES, Policy, rank_descending

# Few distinct values, so that ties are common, and everything that is not a finite number.
SCORE = st.sampled_from([-2.0, -1.0, 0.0, -0.0, 1.0, 2.0, 1e30, math.nan, math.inf, -math.inf])
SCORES = st.lists(SCORE, min_size=1, max_size=17)


def obvious_mask(scores: list[float], k: int, policy: str) -> list[bool]:
    """Best first, ties by index, non-finite last: one sort in plain Python."""
    sign = {"top": -1, "bottom": 1}[policy]
    order = sorted(
        range(len(scores)),
        key=lambda i: (
            not math.isfinite(scores[i]),
            sign * scores[i] if math.isfinite(scores[i]) else 0.0,
            i,
        ),
    )
    kept = set(order[:k])
    return [i in kept for i in range(len(scores))]


@given(scores=SCORES, data=st.data(), policy=st.sampled_from(["top", "bottom"]))
def test_top_and_bottom_match_a_plain_sort(
    scores: list[float], data: st.DataObject, policy: str
) -> None:
    k = data.draw(st.integers(1, len(scores)))
    mask = keep_mask(torch.tensor(scores), k, policy=policy)
    assert mask.dtype == torch.bool
    assert mask.tolist() == obvious_mask(scores, k, policy)


@given(scores=SCORES, data=st.data(), policy=st.sampled_from(["top", "bottom", "random"]))
def test_a_tensor_k_selects_the_same(scores: list[float], data: st.DataObject, policy: str) -> None:
    k = data.draw(st.integers(1, len(scores)))
    by_int, by_tensor = (
        keep_mask(
            torch.tensor(scores), wanted, policy=policy, generator=torch.Generator().manual_seed(1)
        )
        for wanted in (k, torch.tensor(k))
    )
    assert torch.equal(by_int, by_tensor)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("k", [1, 100, 256])
def test_exactly_k_with_the_ties_of_low_precision(dtype: torch.dtype, k: int) -> None:
    scores = (torch.randn(256, generator=torch.Generator().manual_seed(0)) + 40).to(dtype)
    if dtype in (torch.float16, torch.bfloat16):
        assert scores.unique().numel() < 256  # there are ties
    mask = keep_mask(scores, k)
    assert mask.sum() == k
    assert mask.tolist() == obvious_mask(scores.tolist(), k, "top")


def test_float64_scores_are_not_rounded() -> None:
    scores = torch.tensor([1.0, 1.0 + 1e-12], dtype=torch.float64)
    assert keep_mask(scores, 1).tolist() == [False, True]


def test_leading_dimensions_are_independent_batches() -> None:
    scores = torch.randn(3, 4, 10, generator=torch.Generator().manual_seed(0))
    ks = torch.arange(1, 13).reshape(3, 4).clamp(max=10)
    mask = keep_mask(scores, ks)
    for i in range(3):
        for j in range(4):
            assert torch.equal(mask[i, j], keep_mask(scores[i, j], int(ks[i, j])))


def test_tensor_k_outside_its_range_acts_as_the_nearer_bound() -> None:
    scores = torch.arange(5.0)
    assert keep_mask(scores, torch.tensor(0)).sum() == 1
    assert keep_mask(scores, torch.tensor(9)).sum() == 5


def test_random_keeps_every_finite_sample_equally_often() -> None:
    generator = torch.Generator().manual_seed(0)
    scores = torch.tensor([5.0, math.nan, -5.0, 0.0, 1.0, math.inf]).expand(20_000, 6)
    mask = keep_mask(scores, 2, policy="random", generator=generator)
    assert (mask.sum(-1) == 2).all()
    frequency = mask.double().mean(0)
    assert frequency[[1, 5]].tolist() == [0.0, 0.0]
    # 2 of 4 finite samples; the standard error is 0.0035
    assert (frequency[[0, 2, 3, 4]] - 0.5).abs().max() < 0.018


def test_random_is_reproducible_and_leaves_the_global_generator_alone() -> None:
    before = torch.random.get_rng_state()
    masks = [
        keep_mask(
            torch.zeros(64), 10, policy="random", generator=torch.Generator().manual_seed(seed)
        )
        for seed in (3, 3, 4)
    ]
    assert torch.equal(masks[0], masks[1])
    assert not torch.equal(masks[0], masks[2])
    assert torch.equal(before, torch.random.get_rng_state())


def is_sainte_lague(members: list[int], seats: list[int]) -> bool:
    """No class without its next seat has a better claim to it than some holder of a last seat.

    The claim of a class with n members to its (s + 1)-th seat is n / (2 s + 1).
    """
    wanted = [Fraction(n, 2 * s + 1) for n, s in zip(members, seats, strict=True) if s < n]
    held = [Fraction(n, 2 * s - 1) for n, s in zip(members, seats, strict=True) if s > 0]
    return not wanted or max(wanted) <= min(held)


@given(
    labels=st.lists(st.integers(0, 4), min_size=1, max_size=24),
    data=st.data(),
    seed=st.integers(0, 1000),
)
def test_balanced_represents_classes_in_proportion(
    labels: list[int], data: st.DataObject, seed: int
) -> None:
    n = len(labels)
    k = data.draw(st.integers(1, n))
    classes = torch.tensor(labels)
    scores = torch.randn(n, generator=torch.Generator().manual_seed(seed))
    mask = keep_mask(scores, k, policy="balanced", labels=classes)
    assert mask.sum() == k
    present = sorted(set(labels))
    members = [labels.count(c) for c in present]
    seats = [int(mask[classes == c].sum()) for c in present]
    assert is_sainte_lague(members, seats)
    for c in present:  # the best of the class, and no others
        own_scores, own_mask = scores[classes == c], mask[classes == c].tolist()
        assert own_mask == obvious_mask(own_scores.tolist(), sum(own_mask), "top")


def test_balanced_gives_the_last_seat_to_the_better_score() -> None:
    labels = torch.tensor([0, 0, 1, 1])
    assert keep_mask(
        torch.tensor([1.0, 0.0, 3.0, 2.0]), 1, policy="balanced", labels=labels
    ).tolist() == [False, False, True, False]
    assert keep_mask(
        torch.tensor([1.0, 0.0, 3.0, 2.0]), 3, policy="balanced", labels=labels
    ).tolist() == [True, False, True, True]


def test_balanced_ranks_nonfinite_scores_last_across_classes() -> None:
    scores = torch.tensor([math.nan, math.inf, 1.0, 0.0])
    labels = torch.tensor([0, 0, 1, 1])
    mask = keep_mask(scores, 2, policy="balanced", labels=labels)
    assert mask.tolist() == [False, False, True, True]


def test_balanced_kept_sets_are_nested_as_k_falls() -> None:
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(0, 7, (40,), generator=generator)
    scores = torch.randn(40, generator=generator)
    masks = [keep_mask(scores, k, policy="balanced", labels=labels) for k in range(1, 41)]
    assert all((small <= large).all() for small, large in itertools.pairwise(masks))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda s: keep_mask(s, 0), "k must be in 1..4"),
        (lambda s: keep_mask(s, 5), "k must be in 1..4"),
        (lambda s: keep_mask(s, 2, policy="best"), "policy must be one of"),
        (lambda s: keep_mask(s[0], 1), "scores must have shape"),
        (lambda s: keep_mask(s[:0], 1), "scores must have shape"),
        (lambda s: keep_mask(s, 2, policy="balanced"), "needs labels"),
        (lambda s: keep_mask(s, 2, policy="balanced", labels=s), "labels must be integers"),
        (
            lambda s: keep_mask(s, 2, policy="balanced", labels=torch.tensor([1])),
            "labels must be integers",
        ),
    ],
)
def test_wrong_arguments_are_named(call, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call(torch.arange(4.0))


def test_k_must_be_a_whole_number() -> None:
    import numpy as np

    with pytest.raises(TypeError):
        keep_mask(torch.arange(4.0), 2.5)
    with pytest.raises(ValueError, match=r"k must be in 1\.\.4"):
        keep_mask(torch.arange(4.0), np.int64(0))
    assert keep_mask(torch.arange(4.0), np.int64(2)).sum() == 2


def test_shapes_do_not_depend_on_k() -> None:
    """Under fake tensors a data-dependent shape or a look at a value raises."""
    from torch._subclasses.fake_tensor import FakeTensorMode

    def select(policy: str, scores: Tensor, labels: Tensor, k: Tensor) -> Tensor:
        return keep_mask(scores, k, policy=policy, labels=labels)

    with FakeTensorMode():
        scores, labels = torch.empty(2, 8), torch.empty(2, 8, dtype=torch.int64)
        k = torch.empty((), dtype=torch.int64)
        for policy in ("top", "bottom", "random", "balanced"):
            assert select(policy, scores, labels, k).shape == (2, 8)


def test_a_policy_of_ones_own_is_one_entry(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever reads a policy's name takes it: the function, TopK, StudioGAN's flags."""
    middle = Policy("middle", lambda batch: rank_descending(-(batch.scores - 1.0).abs()))
    monkeypatch.setitem(POLICIES, "middle", middle)
    scores = torch.tensor([3.0, 1.1, -4.0, math.nan, 0.5])
    assert keep_mask(scores, 2, policy="middle").tolist() == [False, True, False, False, True]
    topk = TopK(KSchedule(0.5, 0.5), policy="middle")
    topk.progress.epochs = 1
    critic = nn.Flatten(0)  # [N, 1] -> [N]: the samples are their own scores
    topk.attach(critic)
    images = scores[:4, None].clone().requires_grad_()
    with topk.generator_step():
        critic(images).sum().backward()
    assert images.grad.flatten().tolist() == [2.0, 2.0, 0.0, 0.0]


@pytest.mark.parametrize("given", [{"scores": [1.0, 2.0]}, {"scores": 3}, {"labels": "a"}])
def test_what_is_no_tensor_is_named(given: dict) -> None:
    arguments = {"scores": torch.ones(2), "labels": None} | given
    (name,) = given
    with pytest.raises(TypeError, match=f"{name} must be a tensor, not"):
        keep_mask(arguments["scores"], 1, labels=arguments["labels"])
