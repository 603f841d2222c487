"""Critic output -> one score a sample."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor

ScoreSpec = str | int | Callable[[Any], Any] | None


def extract_scores(output: Any, score: ScoreSpec, batch_size: int) -> Tensor:
    """Find the critic's scores in its output and reduce them to one score a sample.

    Args:
        output: whatever the critic returned: a tensor, a mapping, a sequence.
        score: where the scores are: a key of a mapping, an index of a sequence, a callable that
            takes the output, or None when the output itself holds them.
        batch_size: number N of samples that the critic was given.

    Returns:
        Detached tensor of shape [N]. A patch critic ([N, 1, H, W]) is averaged over its patches; a
        list of scales over its scales, each averaged over its patches first.

    Raises:
        ValueError: nothing is found there, or it is not one score (or score map) a sample.
        TypeError: what is found there is neither a tensor nor a list of tensors.
    """
    found = _find(output, score)
    if isinstance(found, Tensor):
        return _one_per_sample(found, batch_size)
    if isinstance(found, list | tuple) and found and all(isinstance(s, Tensor) for s in found):
        per_scale = [_one_per_sample(scale, batch_size) for scale in found]
        return sum(per_scale[1:], per_scale[0]) / len(per_scale)
    raise TypeError(
        f"score={score!r} leads to a {type(found).__name__} in the critic's output; it must lead "
        "to a tensor of scores or a list of such tensors (one a scale)"
    )


def _find(output: Any, score: ScoreSpec) -> Any:
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


def _one_per_sample(scores: Tensor, batch_size: int) -> Tensor:
    scores = scores.detach()
    if scores.dim() == 0 and batch_size == 1:
        return scores.reshape(1)  # a critic that squeezes its output, at batch 1
    one_channel = scores.dim() <= 1 or scores.shape[1] == 1
    if scores.dim() == 0 or scores.shape[0] != batch_size or not one_channel:
        raise ValueError(
            f"scores of shape {list(scores.shape)} are not one score (or one map of scores, "
            f"[N, 1, ...]) for each of {batch_size} samples; pass score=CALLABLE that turns the "
            "critic's output into that"
        )
    if not scores.is_floating_point():
        raise ValueError(f"scores must be floating-point numbers, not {scores.dtype}")
    if scores.dim() == 1:
        return scores
    # fp16 patches would overflow or lose digits when summed
    wide = scores if scores.element_size() >= 4 else scores.float()
    return wide.flatten(1).mean(dim=1)
