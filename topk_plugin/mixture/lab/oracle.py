"""Where one generator step moves samples: towards their mode or away from it.

Sinha et al. 2020 explain top-k training by the oracle direction of a sample, the one to its nearest
mode: a step of the generator on the best-scored samples should move samples along it, a step on the
worst-scored ones against it.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from topk_plugin.gate.gradient_gate import gradient_gate
from topk_plugin.gate.policies import keep_mask
from topk_plugin.mixture.lab.ensemble import Ensemble
from topk_plugin.mixture.lab.losses import generator_loss
from topk_plugin.mixture.lab.measures import HISTOGRAM_EDGES
from topk_plugin.mixture.lab.networks import Parameters, forward
from topk_plugin.mixture.lab.randomness import generator_of
from topk_plugin.mixture.lab.target import Mixture

ANALYSIS_STREAM = 3
BATCHES = 8
"""Batches of latents an analysis; each takes its own steps from the same networks."""
KEPT = 0.5
"""Part of the batch in a top-k and in a bottom-k step; at a half the two share no sample."""
UPDATES = ("top", "bottom", "full")
KINDS = ("gradient", "optimizer")
BINS = len(HISTOGRAM_EDGES)
COSINE_BINS = 20
"""Equal bins of the cosine from -1 to 1."""
DECIMALS, BINNED_DECIMALS = 3, 2
"""Of stored means, so that an analysis of 20 replicas takes less than 30 kB. Means over many bins
or analyses are more exact than one of them: rounding errors do not add up."""


@dataclass(frozen=True)
class Displacements:
    """What the steps on one batch did to its samples; E replicas, N samples, fp64.

    Attributes:
        samples: [E, N, 2] before the step.
        kept: update -> bool [E, N], the samples that its loss is a mean of.
        moved: kind -> update -> [E, N, 2], sample after the step minus sample before.
    """

    samples: Tensor
    kept: dict[str, Tensor]
    moved: dict[str, dict[str, Tensor]]


def analyse(ensemble: Ensemble) -> dict[str, Any]:
    """Compare the steps on the top half, the bottom half and the full batch with the oracle.

    The latents are fixed: the same for a seed in every arm and at every analysis, and never used in
    training. Each replica takes every step from where it stands, on ``BATCHES`` batches in turn;
    the ensemble is not changed. A sample is measured by

    - its *cosine*: of the angle between its displacement and its oracle direction, the one to the
      mode that is nearest before the step (1: straight there, -1: straight away);
    - its *change*: by how much its distance to that mode grew (below 0: it came closer), divided by
      the mean length of the displacements that the full-batch step of the same kind gives the
      replica's samples. The ratio has no unit and does not depend on the learning rate's size as
      long as steps are small; dividing all updates by one length keeps what one of them gains by
      longer steps. For a short step a full-batch change is -cosine on average, weighted by length.

    Only samples for which every number exists take part: finite before and after each step of the
    kind, not exactly on a mean, moved by each step of the kind. So all means of one kind are over
    the same samples.

    Returns:
        Plain data. Replica ``e = arm * seeds + seed``; a mean over no sample is None. ``k``:
        samples in a top-k or bottom-k step; ``samples``: measured a replica, whether or not they
        took part; and for each kind of step, ``"gradient"`` (minus the learning rate times the
        gradient) and ``"optimizer"`` (Adam's step from the replica's state, which is mostly the
        momentum that all updates share), a dict with

        - ``count``: rows -> [E], samples that took part. Rows are ``"all"``, ``"top"`` (those that
          the critic ranked in the top k) and ``"bottom"``;
        - ``count_binned``: [E][bins] by distance to the nearest mean before the step, in std: bin i
          is above ``HISTOGRAM_EDGES[i]`` up to and with the next edge, the last one is open;
        - for each update ``"top"``, ``"bottom"`` and ``"full"`` a dict with ``cosine`` and
          ``change``: rows -> [E] means; ``cosine_binned`` and ``change_binned``: [E][bins] means;
          ``cosine_histogram``: [arm][20] numbers of samples, of all seeds, in equal bins from -1
          to 1.

        Means are rounded to 3 decimals, in bins to 2.
    """
    settings = ensemble.settings
    latents = _latents(settings.seeds, settings.batch, settings.latent)
    batches = [displacements(ensemble, batch) for batch in latents.unbind(1)]
    samples = torch.cat([batch.samples for batch in batches], dim=1)
    kept = {u: torch.cat([batch.kept[u] for batch in batches], dim=1) for u in UPDATES}
    result: dict[str, Any] = {
        "k": int(kept["top"][0].sum()) // BATCHES,
        "samples": samples.shape[1],
    }
    for kind in KINDS:
        moved = {u: torch.cat([batch.moved[kind][u] for batch in batches], dim=1) for u in UPDATES}
        result[kind] = _summary(samples, kept, moved, settings.target, len(settings.arms))
    return result


def _latents(seeds: tuple[int, ...], batch: int, latent: int) -> Tensor:
    """[S, BATCHES, N, latent], fp32: a seed's own, whatever is analysed beside it."""
    shape = (BATCHES, batch, latent)
    return torch.stack(
        [torch.randn(shape, generator=generator_of(seed, ANALYSIS_STREAM)) for seed in seeds]
    )


def displacements(ensemble: Ensemble, latents: Tensor) -> Displacements:
    """Let every replica take each step once on a batch, on fp64 copies of its parameters.

    Args:
        ensemble: trained so far; not changed.
        latents: [S, N, latent], the same in every arm.
    """
    settings = ensemble.settings
    generator = [p.detach().double().requires_grad_() for p in ensemble.generator]
    critic = [p.detach().double() for p in ensemble.critic]
    inputs = latents.to(generator[0]).repeat(len(settings.arms), 1, 1)
    before = forward(generator, inputs)
    scores = forward(critic, before).squeeze(-1)
    n = scores.shape[-1]
    k = max(1, int(KEPT * n))
    kept = {
        "top": keep_mask(scores.detach(), k, policy="top"),
        "bottom": keep_mask(scores.detach(), k, policy="bottom"),
        "full": torch.ones_like(scores, dtype=torch.bool),
    }
    moved: dict[str, dict[str, Tensor]] = {kind: {} for kind in KINDS}
    for update, mask in kept.items():
        # a mean over the kept samples; in fp64 before the division, which would give fp32
        weights = mask * (n / mask.sum(-1, keepdim=True).double())
        loss = generator_loss(gradient_gate(scores, weights), settings.loss).sum()
        gradients = torch.autograd.grad(loss, generator, retain_graph=True)
        with torch.no_grad():
            descent = [p - settings.lr * g for p, g in zip(generator, gradients, strict=True)]
            moved["gradient"][update] = forward(descent, inputs) - before
            stepped = adam_step(ensemble, generator, gradients)
            moved["optimizer"][update] = forward(stepped, inputs) - before
    return Displacements(before.detach(), kept, moved)


def adam_step(
    ensemble: Ensemble, parameters: Parameters, gradients: tuple[Tensor, ...]
) -> Parameters:
    """Parameters after the step that the generators' optimiser would take; its state stays."""
    optimizer = ensemble.generator_optimizer
    group = optimizer.param_groups[0]
    beta1, beta2 = group["betas"]
    stepped = []
    for own, parameter, gradient in zip(ensemble.generator, parameters, gradients, strict=True):
        # .get: the state is a defaultdict, and reading it may not add to it
        state = optimizer.state.get(own, {})
        zero = torch.zeros_like(gradient)
        mean = beta1 * state.get("exp_avg", zero).double() + (1 - beta1) * gradient
        square = beta2 * state.get("exp_avg_sq", zero).double() + (1 - beta2) * gradient.square()
        t = float(state.get("step", 0)) + 1
        root = (square / (1 - beta2**t)).sqrt() + group["eps"]
        stepped.append(parameter - group["lr"] * mean / (1 - beta1**t) / root)
    return stepped


def _summary(
    samples: Tensor,
    kept: dict[str, Tensor],
    moved: dict[str, Tensor],
    target: Mixture,
    arms: int,
) -> dict[str, Any]:
    """One kind's part of the result of :func:`analyse`."""
    oracle = target.offset_to_nearest(samples)
    distance = oracle.norm(dim=-1)
    lengths = {update: moved[update].norm(dim=-1) for update in UPDATES}
    takes_part = torch.isfinite(distance) & (distance > 0)
    for length in lengths.values():
        takes_part = takes_part & torch.isfinite(length) & (length > 0)
    rows = {
        "all": takes_part,
        "top": takes_part & kept["top"],
        "bottom": takes_part & kept["bottom"],
    }
    edges = torch.tensor(HISTOGRAM_EDGES[1:], device=samples.device, dtype=samples.dtype)
    in_bin = _one_hot(torch.bucketize(distance / target.std, edges), BINS, takes_part)
    yardstick = _means(lengths["full"], takes_part)
    summary: dict[str, Any] = {
        "count": {name: mask.sum(-1).tolist() for name, mask in rows.items()},
        "count_binned": in_bin.sum(-1).tolist(),
    }
    for update in UPDATES:
        cosine = (moved[update] * oracle).sum(-1) / (lengths[update] * distance)
        after = (oracle - moved[update]).norm(dim=-1)
        measured = {"cosine": cosine, "change": (after - distance) / yardstick.unsqueeze(-1)}
        entry: dict[str, Any] = {}
        for name, values in measured.items():
            entry[name] = {r: _plain(_means(values, mask), DECIMALS) for r, mask in rows.items()}
            binned = _means(values.unsqueeze(1), in_bin)
            entry[f"{name}_binned"] = _plain(binned, BINNED_DECIMALS)
        cosine_bin = ((cosine.nan_to_num() + 1) / 2 * COSINE_BINS).long().clamp(0, COSINE_BINS - 1)
        histogram = _one_hot(cosine_bin, COSINE_BINS, takes_part).sum(-1)  # [E, bins]
        entry["cosine_histogram"] = histogram.unflatten(0, (arms, -1)).sum(1).tolist()
        summary[update] = entry
    return summary


def _one_hot(indices: Tensor, bins: int, mask: Tensor) -> Tensor:
    """Bool [E, bins, M]: whether sample m is in the bin and in the mask; indices, mask [E, M]."""
    every = torch.arange(bins, device=indices.device)[:, None]
    return (indices.unsqueeze(1) == every) & mask.unsqueeze(1)


def _means(values: Tensor, mask: Tensor) -> Tensor:
    """Means of the values in the mask along the last dimension; NaN over nothing."""
    return torch.where(mask, values, 0.0).sum(-1) / mask.sum(-1)


def _plain(values: Tensor, decimals: int) -> list[Any]:
    """Nested lists of rounded numbers, None for NaN."""
    if values.dim() > 1:
        return [_plain(row, decimals) for row in values]
    return [None if v != v else round(v, decimals) for v in values.tolist()]
