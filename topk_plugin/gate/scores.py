"""Critic output -> one score a sample."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from topk_plugin.gate.plain_tensor import plain

ScoreSpec = str | int | Callable[[Any], Any] | None


def extract_scores(
    output: Any, score: ScoreSpec, batch_size: int, sample_shape: torch.Size | None = None
) -> Tensor:
    """Find the critic's scores in its output and reduce them to one score a sample.

    Args:
        output: whatever the critic returned: a tensor, a mapping, a sequence.
        score: where the scores are: a key of a mapping, an index of a sequence, a callable that
            takes the output, or None when the output itself holds them.
        batch_size: number N of samples that the critic was given.
        sample_shape: shape [N, ...] of what the critic was given, where that is one tensor; scores
            of that very shape are refused.

    Returns:
        Detached tensor of shape [N]. A patch critic ([N, 1, H, W]) is averaged over its patches; a
        list of scales over its scales, each averaged over its patches first.

    Raises:
        ValueError: nothing is found there, or it is not one score (or score map) a sample.
        TypeError: what is found there is neither a tensor nor a list of tensors.
    """
    return mean_score(find_scores(output, score), batch_size, sample_shape, f"score={score!r}")


def find_scores(output: Any, score: ScoreSpec) -> Any:
    """What ``score`` leads to in ``output``, see :func:`extract_scores`."""
    if callable(score):
        return score(output)
    if score is None:
        if isinstance(output, Mapping):
            keys = ", ".join(repr(key) for key in output)
            raise ValueError(f"the critic returns a mapping: pass score=KEY, one of {keys}")
        if isinstance(output, tuple):
            raise ValueError(
                f"the critic returns a tuple of {len(output)}: pass score=INDEX of its scores"
            )
        return output
    container: Any = Mapping if isinstance(score, str) else Sequence
    if not isinstance(output, container):
        kind = "mapping" if isinstance(score, str) else "tuple or list"
        raise ValueError(
            f"score={score!r} needs a critic that returns a {kind}; it returns a "
            f"{type(output).__name__}"
        )
    try:
        return output[score]
    except (KeyError, IndexError):
        there = (
            f"keys {', '.join(map(repr, output))}"
            if isinstance(output, Mapping)
            else f"{len(output)} elements"
        )
        raise ValueError(
            f"score={score!r} is not in the critic's output, which has {there}"
        ) from None


def mean_score(
    found: Any, batch_size: int, sample_shape: torch.Size | None = None, source: str = "score"
) -> Tensor:
    """Reduce a tensor of scores, or a list of them (one a scale or a critic), to [N], detached.

    Args:
        found: [N], [N, 1, ...], or a list or tuple of such tensors with equally many dimensions.
        batch_size, sample_shape: as for :func:`extract_scores`.
        source: what led to ``found``, for the messages.

    Raises:
        ValueError, TypeError: as for :func:`extract_scores`.
    """
    if isinstance(found, Tensor):
        return _one_per_sample(found, batch_size, sample_shape)
    if isinstance(found, list | tuple) and found and all(isinstance(s, Tensor) for s in found):
        if len({scale.dim() for scale in found}) > 1:
            shapes = ", ".join(str(list(scale.shape)) for scale in found)
            raise ValueError(
                f"the list of shapes {shapes} does not look like scores at several scales, which "
                "would be averaged: pass score=INDEX of the scores, or "
                "score=lambda output: [s.flatten(1).mean(1) for s in output] if all of them are"
            )
        per_scale = [_one_per_sample(scale, batch_size, sample_shape) for scale in found]
        return sum(per_scale[1:], per_scale[0]) / len(per_scale)
    nested = isinstance(found, list | tuple) and any(isinstance(s, list | tuple) for s in found)
    example = (
        "; for a list with [..., scores] of each part: "
        "score=lambda output: [part[-1].flatten(1).mean(1) for part in output]"
    )
    raise TypeError(
        f"{source} leads to a {type(found).__name__} in the critic's output; it must lead "
        f"to a tensor of scores or a list of such tensors (one a scale){example if nested else ''}"
    )


def _one_per_sample(
    scores: Tensor, batch_size: int, sample_shape: torch.Size | None = None
) -> Tensor:
    scores = plain(scores).detach()
    if scores.dim() == 0 and batch_size == 1:
        scores = scores.reshape(1)  # a critic that squeezes its output, at batch 1
    one_channel = scores.dim() <= 1 or scores.shape[1] == 1
    if scores.dim() == 0 or scores.shape[0] != batch_size or not one_channel:
        raise ValueError(
            f"scores of shape {list(scores.shape)} are not one score (or one map of scores, "
            f"[N, 1, ...]) for each of {batch_size} samples; {_remedy(scores, batch_size)}"
        )
    if scores.dim() > 2 and scores.shape == sample_shape:
        raise ValueError(
            f"scores of shape {list(scores.shape)} have the very shape of the samples, as an "
            "autoencoder's output has, and the mean of its pixels says nothing about quality: pass "
            "score=CALLABLE that returns one score a sample, use step.gate() and step.select() if "
            "it needs the input too, or pass score=lambda output: output.flatten(1).mean(1) if "
            "these are a score a pixel"
        )
    if not scores.is_floating_point():
        raise ValueError(f"scores must be floating-point numbers, not {scores.dtype}")
    if scores.dim() == 1:
        return scores
    # fp16 patches would overflow or lose digits when summed
    wide = scores if scores.element_size() >= 4 else scores.float()
    return wide.flatten(1).mean(dim=1)


def _remedy(scores: Tensor, batch_size: int) -> str:
    if scores.dim() == 0:
        return (
            "a single number is a mean or a loss: attach to the inner module that returns one "
            "score a sample, or use step.gate() and step.select()"
        )
    rows = scores.shape[0]
    if rows == batch_size:
        return (
            "pass score=lambda output: output.flatten(1).mean(1) if they are scores of the "
            "sample's parts, or a callable that picks the scores"
        )
    if rows < batch_size and batch_size % rows == 0:
        return (
            f"if each one judges a pack of {batch_size // rows} samples, gate the packed view: "
            "packs = step.gate(packs), then step.select(scores)"
        )
    if rows % batch_size == 0:
        return (
            f"if each sample has {rows // batch_size} of them, reshape them with score=lambda "
            f"output: output.reshape(-1, {batch_size}).mean(0) (or .reshape({batch_size}, -1)"
            ".mean(1), by their order)"
        )
    return (
        "pass score=CALLABLE that turns the critic's output into that; if the critic saw other "
        "samples too, use step.gate() and step.select()"
    )
