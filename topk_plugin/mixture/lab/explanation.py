"""The paper's explanation, asked as it is meant: the kept part of a batch against the dropped part.

Sinha et al. 2020 drop the worst-scored samples because steps on them would move samples away from
their modes. Here a generator steps on parts of a batch by the critic's ranking, and *held-out*
samples, whose latents were in no step, are measured: the direction in which each moves against its
oracle direction, the one to its nearest mode. Two kinds of step:

- ``"gradient"``: minus the learning rate times the part's gradient;
- ``"optimizer"``: Adam's step with the part's gradient minus Adam's step with the full batch's,
  from the same state. The momentum, most of any single step, is the same in both and cancels; what
  is left is what choosing the part changes. For the full batch it is nothing.

And two critics: the one of the training as it is (``"live"``), and a copy that has been trained
further with the generator held fixed (``"trained"``), which is closer to what theory assumes.
"""

import torch
from torch import Tensor

from topk_plugin.gate.gradient_gate import gradient_gate
from topk_plugin.gate.policies import POLICIES, keep_mask_of
from topk_plugin.mixture.lab.ensemble import Ensemble
from topk_plugin.mixture.lab.losses import critic_loss, generator_loss
from topk_plugin.mixture.lab.measures import measure
from topk_plugin.mixture.lab.networks import Parameters, forward
from topk_plugin.mixture.lab.oracle import adam_step
from topk_plugin.mixture.lab.randomness import Noise, generator_of
from topk_plugin.mixture.lab.settings import Settings
from topk_plugin.mixture.lab.target import HIGH_QUALITY_STD

STREAM = 5
BATCHES = 4
"""Batches of latents; each takes its own steps from the same networks."""
HELD_OUT = 1024
"""Latents that are measured and in no step."""
PARTS: dict[str, tuple[str, float]] = {
    # policy by which the part is chosen, share of the batch
    "full": ("top", 1.0),
    "best 3/4": ("top", 0.75),
    "worst 1/4": ("bottom", 0.25),
    "random 1/4": ("random", 0.25),
    "best 1/2": ("top", 0.5),
    "worst 1/2": ("bottom", 0.5),
    "best 1/10": ("top", 0.1),
    "worst 1/10": ("bottom", 0.1),
}
"""Parts of a batch that a step learns from: first the paper's floor, nu 0.75, and what it drops."""
KINDS = ("gradient", "optimizer")
CRITICS = ("live", "trained")
MORE_STEPS = 400
"""Updates by which the critic is trained further."""
GROUPS = ("all", "good", "near")
"""Held-out samples that a mean is over: all; within 4 std of a mode; within 1 std."""
NEAR_STD = 1.0


def key(critic: str, kind: str, part: str, group: str) -> str:
    """Name of a mean cosine in the result of :func:`explain`."""
    return f"{critic}, {kind}, {part}, {group}"


def explain(ensemble: Ensemble, *, more_steps: int = MORE_STEPS) -> dict[str, Tensor]:
    """Mean cosines of held-out samples' movements with their oracle directions, of every replica.

    Args:
        ensemble: trained so far; not changed.
        more_steps: updates by which the ``"trained"`` critic is trained further.

    Returns:
        [A, S] each, fp64: ``high_quality``, the fraction of the held-out samples; and under
        :func:`key` the mean cosine over ``BATCHES`` batches and the group's samples, NaN where a
        group is empty.
    """
    settings = ensemble.settings
    generator = [p.detach().double().requires_grad_() for p in ensemble.generator]
    live = [p.detach().double() for p in ensemble.critic]
    critics = {"live": live, "trained": _train_further(ensemble, more_steps)}
    batches, held_out, lottery = _latents(settings)
    arms = len(settings.arms)
    held_out = held_out.to(generator[0]).repeat(arms, 1, 1)
    with torch.no_grad():
        before = forward(generator, held_out)
    oracle = settings.target.offset_to_nearest(before)
    distance = oracle.norm(dim=-1) / settings.target.std
    groups = {
        "all": torch.isfinite(distance) & (distance > 0),
        "good": (distance > 0) & (distance <= HIGH_QUALITY_STD),
        "near": (distance > 0) & (distance <= NEAR_STD),
    }
    result = {"high_quality": measure(before, settings.target)["high_quality"]}
    for name, critic in critics.items():
        totals = {kind: {part: torch.zeros_like(distance) for part in PARTS} for kind in KINDS}
        for batch, draws in zip(batches, lottery, strict=True):
            inputs = batch.to(generator[0]).repeat(arms, 1, 1)
            noise = draws.to(generator[0].device).repeat(arms, 1)
            for kind, moved in _moved(ensemble, generator, critic, inputs, noise, held_out).items():
                for part, step in moved.items():
                    totals[kind][part] += torch.cosine_similarity(step, oracle, dim=-1)
        for kind, parts in totals.items():
            for part, total in parts.items():
                if kind == "gradient" or part != "full":
                    for group, mask in groups.items():
                        mean = _means(total / BATCHES, mask)
                        result[key(name, kind, part, group)] = mean
    return {name: values.unflatten(0, (arms, -1)) for name, values in result.items()}


def _moved(
    ensemble: Ensemble,
    generator: Parameters,
    critic: Parameters,
    inputs: Tensor,
    noise: Tensor,
    held_out: Tensor,
) -> dict[str, dict[str, Tensor]]:
    """kind -> part -> [E, HELD_OUT, 2], where the step on a part of the batch moves samples."""
    settings = ensemble.settings
    scores = forward(critic, forward(generator, inputs)).squeeze(-1)
    n = scores.shape[-1]
    descended, stepped = {}, {}
    for part, (policy, share) in PARTS.items():
        k = torch.full((scores.shape[0],), max(1, round(share * n)), device=scores.device)
        mask = keep_mask_of(POLICIES[policy], scores.detach(), k, noise=noise)
        loss = generator_loss(
            gradient_gate(scores, mask * (n / k.double())[:, None]), settings.loss
        )
        gradients = torch.autograd.grad(loss.sum(), generator, retain_graph=True)
        with torch.no_grad():
            descended[part] = forward(
                [p - settings.lr * g for p, g in zip(generator, gradients, strict=True)], held_out
            )
            stepped[part] = forward(adam_step(ensemble, generator, gradients), held_out)
    with torch.no_grad():
        before = forward(generator, held_out)
    return {
        "gradient": {part: after - before for part, after in descended.items()},
        "optimizer": {part: after - stepped["full"] for part, after in stepped.items()},
    }


def _train_further(ensemble: Ensemble, steps: int) -> Parameters:
    """The critics, fp64, after more updates of their own optimiser with the generators fixed."""
    settings, arms = ensemble.settings, len(ensemble.settings.arms)
    critic = [p.detach().clone().requires_grad_() for p in ensemble.critic]
    generator = [p.detach() for p in ensemble.generator]
    optimizer = torch.optim.Adam(
        critic, lr=settings.lr, betas=(settings.beta1, settings.beta2), fused=True
    )
    # a copy of the state, so that the training goes on as if nothing had happened
    state = ensemble.critic_optimizer.state_dict()
    state = {**state, "state": {i: _copied(s) for i, s in state["state"].items()}}
    optimizer.load_state_dict(state)
    source = Noise(settings.seeds, settings.batch, settings.latent, settings.target, STREAM)
    target = settings.target
    for _ in range(steps):
        noise = {name: t.to(critic[0].device) for name, t in source.next().items()}
        real = target.means(noise["modes"]) + target.std * noise["spread"]
        real, latents, mix = (
            t.to(critic[0].dtype).repeat(arms, 1, 1)
            for t in (real, noise["critic_latents"], noise["mix"])
        )
        with torch.no_grad():
            fake = forward(generator, latents)
        optimizer.zero_grad()
        critic_loss(critic, real, fake, mix, settings.loss, settings.penalty).sum().backward()
        optimizer.step()
    return [p.detach().double() for p in critic]


def _copied(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in state.items()}


def _latents(settings: Settings) -> tuple[Tensor, Tensor, Tensor]:
    """Latents of the steps [BATCHES, S, N, latent], held-out ones [S, HELD_OUT, latent], and
    uniform noise [BATCHES, S, N] for the random part: a seed's own, the same at every analysis."""
    batches, held_out, lottery = [], [], []
    for seed in settings.seeds:
        g = generator_of(seed, STREAM + 1)
        batches.append(torch.randn(BATCHES, settings.batch, settings.latent, generator=g))
        held_out.append(torch.randn(HELD_OUT, settings.latent, generator=g))
        lottery.append(torch.rand(BATCHES, settings.batch, generator=g))
    return torch.stack(batches, 1), torch.stack(held_out), torch.stack(lottery, 1)


def _means(values: Tensor, mask: Tensor) -> Tensor:
    """[E] means of the values in the mask; NaN over nothing."""
    return torch.where(mask, values, 0.0).sum(-1) / mask.sum(-1)
