"""Scores -> which samples are kept. Pure tensor functions, static shapes, no host synchronisation.

Rules, whatever the policy: exactly k samples are kept; ties go to the lower index; scores that are
not finite rank last, so that a NaN is never mistaken for the best sample (``torch.topk`` ranks NaN
highest). A policy is one entry of :data:`POLICIES`, and everything that takes a policy's name
reads it from there.
"""

import operator
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor


class ScoredBatch(NamedTuple):
    """What a policy may look at; all of shape [..., N], leading dimensions are independent batches.

    Attributes:
        scores: fp32 or fp64, -inf where the critic's score was not finite; higher is better.
        finite: bool, False where the critic's score was not finite.
        labels: integer classes; None unless the policy needs labels.
        noise: uniform in [0, 1), fp32; None unless the policy needs noise.
    """

    scores: Tensor
    finite: Tensor
    labels: Tensor | None
    noise: Tensor | None


@dataclass(frozen=True)
class Policy:
    """One way to choose samples.

    Attributes:
        name: as users write it.
        rank: gives every sample its place, int64 [..., N] from 0 for the one that is kept longest
            to N - 1; what is not finite comes last. The k first places are kept.
        needs_labels: it looks at the samples' classes.
        needs_noise: it looks at uniform noise, drawn anew for every batch.
    """

    name: str
    rank: Callable[[ScoredBatch], Tensor]
    needs_labels: bool = False
    needs_noise: bool = False


def keep_mask(
    scores: Tensor,
    k: int | Tensor,
    *,
    policy: str = "top",
    labels: Tensor | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Choose exactly k of the N samples of every batch.

    Args:
        scores: critic scores, real dtype, shape [..., N]. Selection runs along the last dimension;
            leading dimensions are independent batches. fp16 and bf16 are ranked in fp32.
        k: how many to keep, 1..N. An int is checked. A tensor (integer, 0-d or of the leading
            shape) is not, since looking at it would synchronise with the device: values outside
            1..N act as the nearer bound.
        policy: ``"top"`` keeps the highest scores (Sinha et al. 2020); ``"bottom"`` the lowest and
            ``"random"`` any k (the paper's controls); ``"balanced"`` the highest of each class,
            classes represented in proportion to their number in the batch (seats are shared out by
            the Sainte-Lague rule, so the kept set only shrinks as k falls).
        labels: integer class of each sample, shape of ``scores``; needed by ``"balanced"``.
        generator: source of randomness for ``"random"``, on the device of ``scores``.

    Returns:
        Bool tensor of the shape of ``scores`` with exactly k True along the last dimension.

    Raises:
        ValueError: an argument is outside its range or of a wrong shape; the message names it.
        TypeError: scores or labels are no tensor, or k is neither an integer nor a tensor.
    """
    if policy not in POLICIES:
        raise ValueError(f"policy must be one of {', '.join(POLICIES)}, not {policy!r}")
    for name, value in (("scores", scores), ("labels", labels)):
        if not isinstance(value, Tensor) and (name == "scores" or value is not None):
            raise TypeError(f"{name} must be a tensor, not {type(value).__name__}")
    if scores.dim() == 0 or scores.shape[-1] == 0:
        raise ValueError(f"scores must have shape [..., N] with N >= 1, not {list(scores.shape)}")
    chosen = POLICIES[policy]
    noise = draw_noise(scores, generator) if chosen.needs_noise else None
    return keep_mask_of(chosen, scores, k, labels=labels, noise=noise)


def draw_noise(scores: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Uniform fp32 noise of the shape and on the device of ``scores``, for :func:`keep_mask_of`."""
    return torch.rand(scores.shape, generator=generator, device=scores.device)


def keep_mask_of(
    policy: Policy,
    scores: Tensor,
    k: int | Tensor,
    *,
    labels: Tensor | None = None,
    noise: Tensor | None = None,
) -> Tensor:
    """:func:`keep_mask` for callers that draw a policy's noise themselves.

    Args:
        policy: an entry of :data:`POLICIES`.
        scores, k, labels: as for :func:`keep_mask`.
        noise: of the shape of ``scores``; for policies that need it.

    Raises:
        ValueError: as for :func:`keep_mask`, or the policy needs what was not given.
    """
    if not isinstance(k, Tensor):
        k = operator.index(k)  # NumPy's integers too; a float is a TypeError
        _check_k(k, scores.shape[-1])
    if policy.needs_labels:
        _check_labels(policy.name, labels, scores)
    if policy.needs_noise and noise is None:
        raise ValueError(f"policy {policy.name!r} needs noise of the shape of the scores")
    finite = torch.isfinite(scores)
    wide = scores if scores.dtype in (torch.float32, torch.float64) else scores.float()
    batch = ScoredBatch(wide.masked_fill(~finite, -torch.inf), finite, labels, noise)
    if isinstance(k, Tensor):
        k = k.clamp(min=1)
        k = k.unsqueeze(-1) if k.dim() > 0 else k
    return policy.rank(batch) < k


def _check_k(k: int, n: int) -> None:
    if not 1 <= k <= n:
        raise ValueError(f"k must be in 1..{n} (the number of scores), not {k}")


def _check_labels(policy: str, labels: Tensor | None, scores: Tensor) -> None:
    if labels is None:
        raise ValueError(f"policy {policy!r} needs labels: the integer class of each sample")
    if labels.shape != scores.shape or labels.is_floating_point():
        raise ValueError(
            f"labels must be integers of shape {list(scores.shape)} like the scores, not "
            f"{labels.dtype} of shape {list(labels.shape)}"
        )


def _top_rank(batch: ScoredBatch) -> Tensor:
    return rank_descending(batch.scores)


def _bottom_rank(batch: ScoredBatch) -> Tensor:
    return rank_descending((-batch.scores).masked_fill(~batch.finite, -torch.inf))


def _random_rank(batch: ScoredBatch) -> Tensor:
    assert batch.noise is not None  # checked by keep_mask_of
    return rank_descending(batch.noise.masked_fill(~batch.finite, -torch.inf))


def _balanced_rank(batch: ScoredBatch) -> Tensor:
    """Rank samples so that any first k of them represent the classes proportionally.

    The r-th best sample (r = 0, 1, ...) of a class with n members claims the seat at (r + 1/2) / n.
    Taking the k smallest claims is the Sainte-Lague apportionment of k seats.
    """
    assert batch.labels is not None  # checked by keep_mask_of
    rank, labels = rank_descending(batch.scores), batch.labels.long()
    n = rank.shape[-1]
    # One integer key sorts by class first and by rank inside it; keys are unique.
    by_class = torch.argsort(labels * n + rank, dim=-1)
    sorted_labels = labels.gather(-1, by_class).contiguous()
    queries = labels.contiguous()
    first = torch.searchsorted(sorted_labels, queries)
    members = torch.searchsorted(sorted_labels, queries, right=True) - first
    rank_in_class = _invert_permutation(by_class) - first
    claim = (rank_in_class.double() + 0.5) / members
    claim = claim.masked_fill(~batch.finite, torch.inf)
    # Equal claims of different classes: the better score first. Sorting what is already in rank
    # order by a stable sort does that.
    by_rank = _invert_permutation(rank)
    by_claim = torch.argsort(claim.gather(-1, by_rank), dim=-1, stable=True)
    return _invert_permutation(by_rank.gather(-1, by_claim))


def rank_descending(keys: Tensor) -> Tensor:
    """Place of each key along the last dimension, 0 for the largest; equal keys go by index."""
    order = torch.argsort(keys, dim=-1, descending=True, stable=True)
    return _invert_permutation(order)


def _invert_permutation(order: Tensor) -> Tensor:
    positions = torch.arange(order.shape[-1], device=order.device).expand_as(order)
    return torch.empty_like(order).scatter_(-1, order, positions)


# Name -> policy. A policy of one's own is one more entry, added before its name is first read.
POLICIES: dict[str, Policy] = {
    policy.name: policy
    for policy in (
        Policy("top", _top_rank),
        Policy("bottom", _bottom_rank),
        Policy("random", _random_rank, needs_noise=True),
        Policy("balanced", _balanced_rank, needs_labels=True),
    )
}
