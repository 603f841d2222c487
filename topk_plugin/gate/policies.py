"""Scores -> which samples are kept. Pure tensor functions, static shapes, no host synchronisation.

Rules, whatever the policy: exactly k samples are kept; ties go to the lower index; scores that are
not finite rank last, so that a NaN is never mistaken for the best sample (``torch.topk`` ranks NaN
highest).
"""

import operator
from typing import Literal, get_args

import torch
from torch import Tensor

Policy = Literal["top", "bottom", "random", "balanced"]
POLICIES: tuple[str, ...] = get_args(Policy)


def keep_mask(
    scores: Tensor,
    k: int | Tensor,
    *,
    policy: Policy = "top",
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
        TypeError: k is neither an integer nor a tensor.
    """
    if policy not in POLICIES:
        raise ValueError(f"policy must be one of {', '.join(POLICIES)}, not {policy!r}")
    if scores.dim() == 0 or scores.shape[-1] == 0:
        raise ValueError(f"scores must have shape [..., N] with N >= 1, not {list(scores.shape)}")
    if not isinstance(k, Tensor):
        k = operator.index(k)  # NumPy's integers too; a float is a TypeError
        _check_k(k, scores.shape[-1])
    keys = _sort_keys(scores, policy, generator)
    rank = _rank_descending(keys)
    if policy == "balanced":
        rank = _balanced_rank(rank, labels, torch.isfinite(keys))
    if isinstance(k, Tensor):
        k = k.clamp(min=1)
        k = k.unsqueeze(-1) if k.dim() > 0 else k
    return rank < k


def _check_k(k: int, n: int) -> None:
    if not 1 <= k <= n:
        raise ValueError(f"k must be in 1..{n} (the number of scores), not {k}")


def random_scores(scores: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Uniform noise in place of the scores; what is not finite becomes NaN and so ranks last.

    Args:
        scores: [..., N]; only its shape, device and finiteness matter.
        generator: source of randomness on the device of ``scores``.

    Returns:
        fp32 tensor of the shape of ``scores``.
    """
    noise = torch.rand(scores.shape, generator=generator, device=scores.device)
    return noise.masked_fill(~torch.isfinite(scores), torch.nan)


def _sort_keys(scores: Tensor, policy: str, generator: torch.Generator | None) -> Tensor:
    """Keys that rank best-first in descending order, -inf for what is not finite."""
    if policy == "random":
        scores = random_scores(scores, generator)
    keys = scores if scores.dtype in (torch.float32, torch.float64) else scores.float()
    if policy == "bottom":
        keys = -keys
    return keys.masked_fill(~torch.isfinite(keys), -torch.inf)


def _rank_descending(keys: Tensor) -> Tensor:
    """Rank 0 for the largest key along the last dimension; equal keys rank by index."""
    order = torch.argsort(keys, dim=-1, descending=True, stable=True)
    return _invert_permutation(order)


def _invert_permutation(order: Tensor) -> Tensor:
    positions = torch.arange(order.shape[-1], device=order.device).expand_as(order)
    return torch.empty_like(order).scatter_(-1, order, positions)


def _balanced_rank(rank: Tensor, labels: Tensor | None, finite: Tensor) -> Tensor:
    """Rank samples so that any first k of them represent the classes proportionally.

    The r-th best sample (r = 0, 1, ...) of a class with n members claims the seat at (r + 1/2) / n.
    Taking the k smallest claims is the Sainte-Lague apportionment of k seats.
    """
    if labels is None:
        raise ValueError("policy 'balanced' needs labels: the integer class of each sample")
    if labels.shape != rank.shape or labels.is_floating_point():
        raise ValueError(
            f"labels must be integers of shape {list(rank.shape)} like the scores, not "
            f"{labels.dtype} of shape {list(labels.shape)}"
        )
    n = rank.shape[-1]
    # One integer key sorts by class first and by rank inside it; keys are unique.
    by_class = torch.argsort(labels.long() * n + rank, dim=-1)
    sorted_labels = labels.long().gather(-1, by_class).contiguous()
    queries = labels.long().contiguous()
    first = torch.searchsorted(sorted_labels, queries)
    members = torch.searchsorted(sorted_labels, queries, right=True) - first
    rank_in_class = _invert_permutation(by_class) - first
    claim = (rank_in_class.double() + 0.5) / members
    claim = claim.masked_fill(~finite, torch.inf)
    # Equal claims of different classes: the better score first. Sorting what is already in rank
    # order by a stable sort does that.
    by_rank = _invert_permutation(rank)
    by_claim = torch.argsort(claim.gather(-1, by_rank), dim=-1, stable=True)
    return _invert_permutation(by_rank.gather(-1, by_claim))
