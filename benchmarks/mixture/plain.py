"""The loop that anyone would write: one seed, one arm, torch.nn modules, nothing vectorised.

Shared by the speed benchmark, which runs against it, and by the tests, which demand the same
numbers of both.
"""

from contextlib import nullcontext
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from topk_plugin import TopK
from topk_plugin.mixture.lab.ensemble import INITIAL_STREAM
from topk_plugin.mixture.lab.randomness import Noise, generator_of
from topk_plugin.mixture.lab.settings import Arm, Settings


class PlainTraining:
    """One replica of a setting.

    Args:
        settings: what to train; its arms and seeds are not read.
        arm: how.
        seed: the replica's.
        dtype: of networks and data.
    """

    def __init__(
        self, settings: Settings, arm: Arm, seed: int, dtype: torch.dtype = torch.float32
    ) -> None:
        self.settings, self.arm, self.dtype = settings, arm, dtype
        initial = generator_of(seed, INITIAL_STREAM)
        self.generator = _network(settings, settings.latent, 2, initial).to(dtype)
        self.critic = _network(settings, 2, 1, initial).to(dtype)
        betas = (settings.beta1, settings.beta2)
        self.generator_optimizer = torch.optim.Adam(
            self.generator.parameters(), lr=settings.lr, betas=betas
        )
        self.critic_optimizer = torch.optim.Adam(
            self.critic.parameters(), lr=settings.lr, betas=betas
        )
        self.noise = Noise((seed,), settings.batch, settings.latent, settings.target)
        self.lottery = torch.zeros(0)
        self.topk: TopK | None = None
        if arm.gamma < 1:
            self.topk = TopK(
                arm.schedule,
                policy="top" if arm.policy == "random" else arm.policy,
                normalize=arm.normalize,
            )
            # random-k is top-k of a lottery
            self.topk.attach(
                self.critic,
                score=lambda scores: self.lottery if arm.policy == "random" else scores.squeeze(1),
            )
        self.step = 0

    def train_step(self) -> None:
        """The critic updates and the generator update of one step."""
        for _ in range(self.settings.critic_steps):
            noise = {name: value[0] for name, value in self.noise.next().items()}
            noise = {n: v.to(self.dtype) if v.is_floating_point() else v for n, v in noise.items()}
            real = self.settings.target.means(noise["modes"]).to(self.dtype)
            real = real + self.settings.std * noise["spread"]
            self.critic_optimizer.zero_grad()
            fake = self.generator(noise["critic_latents"]).detach()
            self._critic_loss(real, fake, noise["mix"]).backward()
            self.critic_optimizer.step()
        self.generator_optimizer.zero_grad()
        self.lottery = noise["lottery"]
        with self.topk.generator_step() if self.topk else nullcontext():
            scores = self.critic(self.generator(noise["generator_latents"]))
            self._generator_loss(scores).backward()
        self.generator_optimizer.step()
        if self.topk and self.step >= self.arm.onset:
            self.topk.end_step()
        self.step += 1

    def _generator_loss(self, scores: Tensor) -> Tensor:
        if self.settings.loss == "non-saturating":
            return softplus(-scores).mean()
        if self.settings.loss == "least-squares":
            return 0.5 * (scores - 1).square().mean()
        return -scores.mean()

    def _critic_loss(self, real: Tensor, fake: Tensor, mix: Tensor) -> Tensor:
        on_real, on_fake = self.critic(real), self.critic(fake)
        if self.settings.loss == "non-saturating":
            return (softplus(-on_real) + softplus(on_fake)).mean()
        if self.settings.loss == "hinge":
            return (torch.relu(1 - on_real) + torch.relu(1 + on_fake)).mean()
        if self.settings.loss == "least-squares":
            return 0.5 * ((on_real - 1).square() + on_fake.square()).mean()
        between = (fake + mix * (real - fake)).requires_grad_()
        (slope,) = torch.autograd.grad(self.critic(between).sum(), between, create_graph=True)
        penalty = (slope.norm(dim=1) - 1).square().mean()
        return (on_fake - on_real).mean() + self.settings.penalty * penalty


def _network(
    settings: Settings, inputs: int, outputs: int, initial: torch.Generator
) -> nn.Sequential:
    widths = [inputs, *[settings.width] * settings.layers, outputs]
    layers: list[nn.Module] = []
    for narrow, wide in pairwise(widths):
        layer = nn.Linear(narrow, wide)
        bound = narrow**-0.5
        with torch.no_grad():  # nn.Linear's own distribution, from the seed's own stream
            drawn = torch.empty(narrow, wide).uniform_(-bound, bound, generator=initial)
            layer.weight.copy_(drawn.T)
            layer.bias.uniform_(-bound, bound, generator=initial)
        layers += [layer, nn.ReLU()]
    return nn.Sequential(*layers[:-1])
