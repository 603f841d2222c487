"""What a training could know of its own quality, without the oracle.

Numbers that a rule for k might watch on images, where nobody knows the modes: how far the critic
tells real from generated samples apart, and how far the kept samples' gradient is the batch's.
"""

from functools import cache

import torch
from torch import Tensor

from topk_plugin.gate.gradient_gate import gradient_gate
from topk_plugin.gate.policies import keep_mask
from topk_plugin.mixture.lab.ensemble import Ensemble
from topk_plugin.mixture.lab.losses import generator_loss
from topk_plugin.mixture.lab.networks import forward
from topk_plugin.mixture.lab.randomness import generator_of
from topk_plugin.mixture.lab.settings import Settings

PROXY_STREAM = 4
SAMPLES = 512
PROXIES = ("auc", "gap", "spread", "agreement")


def proxies(ensemble: Ensemble) -> dict[str, Tensor]:
    """Proxies of every replica, [A, S] each, fp32; the ensemble is not changed.

    From ``SAMPLES`` latents and real samples, fixed for a seed and never used in training.

    Returns:
        ``auc``: how often the critic scores a real sample above a generated one (0.5: it cannot
        tell them apart); ``gap``: its mean score of real samples minus that of generated ones, in
        standard deviations (root of the mean of both variances); ``spread``: standard deviation of
        its scores of generated samples over that of real ones; ``agreement``: cosine of the
        generator's gradient by the better half of the samples and by all of them.
    """
    settings = ensemble.settings
    generator = [p.detach().requires_grad_() for p in ensemble.generator]
    critic = [p.detach() for p in ensemble.critic]
    inputs, real = (x.to(generator[0]) for x in _fixed_samples(settings))
    scores = forward(critic, forward(generator, inputs)).squeeze(-1)
    on_real, on_fake = forward(critic, real).squeeze(-1), scores.detach()
    half = keep_mask(on_fake, SAMPLES // 2).to(scores.dtype) * 2
    flat = []
    for weights in (half, torch.ones_like(half)):
        loss = generator_loss(gradient_gate(scores, weights), settings.loss).sum()
        gradients = torch.autograd.grad(loss, generator, retain_graph=True)
        flat.append(torch.cat([g.flatten(1) for g in gradients], dim=1))
    # ranks of the real scores among all scores give the area under the curve
    ranks = torch.cat([on_real, on_fake], dim=1).argsort(dim=1).argsort(dim=1) + 1.0
    wins = ranks[:, :SAMPLES].sum(1) - SAMPLES * (SAMPLES + 1) / 2
    pooled = ((on_real.var(1) + on_fake.var(1)) / 2).sqrt()
    values = {
        "auc": wins / SAMPLES**2,
        "gap": (on_real.mean(1) - on_fake.mean(1)) / pooled,
        "spread": on_fake.std(1) / on_real.std(1),
        "agreement": torch.cosine_similarity(flat[0], flat[1], dim=1),
    }
    arms = len(settings.arms)
    return {name: value.unflatten(0, (arms, -1)) for name, value in values.items()}


@torch.no_grad()
def critic_scores(ensemble: Ensemble) -> tuple[Tensor, Tensor]:
    """The critics' scores [E, SAMPLES] of the same real and of the same latents' samples."""
    inputs, real = (x.to(ensemble.generator[0]) for x in _fixed_samples(ensemble.settings))
    fake = forward(ensemble.generator, inputs)
    n = real.shape[1]
    scores = forward(ensemble.critic, torch.cat([real, fake], dim=1)).squeeze(-1)
    return scores[:, :n], scores[:, n:]


@cache
def _fixed_samples(settings: Settings) -> tuple[Tensor, Tensor]:
    """[E, SAMPLES, latent] latents and [E, SAMPLES, 2] real samples, fp32, a seed's own."""
    target = settings.target
    latents, reals = [], []
    for seed in settings.seeds:
        g = generator_of(seed, PROXY_STREAM)
        latents.append(torch.randn(SAMPLES, settings.latent, generator=g))
        means = target.means(target.draw((SAMPLES,), g))
        reals.append(means + target.std * torch.randn(SAMPLES, 2, generator=g))
    arms = len(settings.arms)
    return torch.stack(latents).repeat(arms, 1, 1), torch.stack(reals).repeat(arms, 1, 1)
