"""Training of all arms and seeds of one setting at once."""

from itertools import groupby
from typing import Any

import torch
from torch import Tensor

from topk_plugin.gate.gradient_gate import gradient_gate
from topk_plugin.gate.policies import POLICIES, keep_mask_of
from topk_plugin.mixture.lab.losses import critic_loss, generator_loss
from topk_plugin.mixture.lab.networks import Parameters, forward, initial_parameters
from topk_plugin.mixture.lab.randomness import Noise, generator_of
from topk_plugin.mixture.lab.settings import Settings

INITIAL_STREAM = 0
STATE_VERSION = 1


class Ensemble:
    """Generators and critics of every arm and seed, trained side by side.

    Replica ``a * S + s`` is arm a with seed s. Replicas never meet: each has its own networks,
    optimiser state, data and latents (the same for a seed in every arm).

    Args:
        settings: what to train.
        device: where.
        dtype: of networks and data; the noise is drawn in fp32 in any case.

    Attributes:
        generator, critic: parameters, see :mod:`topk_plugin.mixture.lab.networks`.
        step: generator updates done.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self.settings = settings
        self.step = 0
        self._device, self._dtype = torch.device(device), dtype
        self._noise = Noise(settings.seeds, settings.batch, settings.latent, settings.target)
        hidden = [settings.width] * settings.layers
        streams = [generator_of(seed, INITIAL_STREAM) for seed in settings.seeds]
        self.generator = self._stack(
            [initial_parameters([settings.latent, *hidden, 2], stream) for stream in streams]
        )
        self.critic = self._stack(
            [initial_parameters([2, *hidden, 1], stream) for stream in streams]
        )
        self.generator_optimizer = self._adam(self.generator)
        self.critic_optimizer = self._adam(self.critic)
        self._policies = [
            (policy, len(list(arms))) for policy, arms in groupby(a.policy for a in settings.arms)
        ]
        self._k: Tensor | None = None
        self._ks: list[int] = []

    def _stack(self, networks: list[Parameters]) -> Parameters:
        """[E, ...] parameters: each seed's network once an arm."""
        arms = len(self.settings.arms)
        return [
            torch.cat([*layer] * arms).to(self._device, self._dtype).requires_grad_()
            for layer in zip(*networks, strict=True)
        ]

    def _adam(self, parameters: Parameters) -> torch.optim.Adam:
        # Adam treats each number by itself, so one optimiser of stacked parameters is one a replica
        s = self.settings
        return torch.optim.Adam(parameters, lr=s.lr, betas=(s.beta1, s.beta2), fused=True)

    def _per_replica(self, per_seed: Tensor) -> Tensor:
        """[S, ...] -> [E, ...]: the same for every arm."""
        arms = len(self.settings.arms)
        moved = per_seed.to(self._device)
        if moved.is_floating_point():
            moved = moved.to(self._dtype)
        return moved.expand(arms, *moved.shape).flatten(0, 1)

    def train_step(self) -> None:
        """The critic updates and the generator update of one step, in every replica."""
        for _ in range(self.settings.critic_steps):
            noise = {name: self._per_replica(t) for name, t in self._noise.next().items()}
            self._critic_step(noise)
        self._generator_step(noise)
        self.step += 1

    def _critic_step(self, noise: dict[str, Tensor]) -> None:
        target = self.settings.target
        real = target.means(noise["modes"]).to(self._dtype) + target.std * noise["spread"]
        self.critic_optimizer.zero_grad()
        fixed = [p.detach() for p in self.generator]
        latents = noise["critic_latents"]
        self._critic_losses(self.critic, fixed, latents, real, noise["mix"]).backward()
        self.critic_optimizer.step()

    def _critic_losses(
        self, critic: Parameters, generator: Parameters, latents: Tensor, real: Tensor, mix: Tensor
    ) -> Tensor:
        s = self.settings
        fake = forward(generator, latents)
        # The sum keeps replicas apart: each one's loss has gradients in its own parameters only.
        return critic_loss(critic, real, fake, mix, s.loss, s.penalty).sum()

    def _generator_step(self, noise: dict[str, Tensor]) -> None:
        self.generator_optimizer.zero_grad()
        fixed = [p.detach() for p in self.critic]
        loss = self._generator_losses(
            self.generator, fixed, noise["generator_latents"], noise["lottery"], *self._kept_now()
        )
        loss.backward()
        self.generator_optimizer.step()

    def _kept_now(self) -> tuple[Tensor, Tensor]:
        """k [E] and the weight [E] of kept samples; new tensors only when a k moves."""
        ks = self.ks()
        if self._k is None or ks != self._ks:
            self._ks = ks
            self._k = torch.tensor(ks, device=self._device)
            arms = [arm for arm in self.settings.arms for _ in self.settings.seeds]
            weights = [
                self.settings.batch / k if arm.normalize == "kept" else 1.0
                for arm, k in zip(arms, ks, strict=True)
            ]
            self._weight = torch.tensor(weights, device=self._device, dtype=self._dtype)
        return self._k, self._weight

    def ks(self) -> list[int]:
        """[E]: the samples that each replica keeps in its next generator update."""
        s = self.settings
        return [k for arm in s.arms for k in [arm.k(self.step, s.batch)] * len(s.seeds)]

    def _generator_losses(
        self,
        generator: Parameters,
        critic: Parameters,
        latents: Tensor,
        lottery: Tensor,
        k: Tensor,
        weight: Tensor,
    ) -> Tensor:
        scores = forward(critic, forward(generator, latents)).squeeze(-1)
        mask = self.kept(scores.detach(), lottery, k)
        weights = mask * weight.unsqueeze(-1)
        # The critic treats each sample by itself, so the gate may sit at its output: what it
        # zeroes there is zero at the critic's input too.
        gated = gradient_gate(scores, weights)
        return generator_loss(gated, self.settings.loss).sum()

    def kept(self, scores: Tensor, lottery: Tensor, k: Tensor) -> Tensor:
        """Which samples each replica's generator learns from.

        Args:
            scores: [E, N], the critics'.
            lottery: [E, N] uniform noise, a seed's own, for the policies that need it.
            k: [E] integers.

        Returns:
            Bool [E, N].
        """
        replicas = len(self.settings.seeds)
        masks, first = [], 0
        for policy, arms in self._policies:
            rows = slice(first * replicas, (first + arms) * replicas)
            masks.append(keep_mask_of(POLICIES[policy], scores[rows], k[rows], noise=lottery[rows]))
            first += arms
        return torch.cat(masks)

    @torch.no_grad()
    def sample(self, latents: Tensor) -> Tensor:
        """[S, n, latent] latents, fp32 -> [A, S, n, 2] samples; every arm gets the same latents."""
        samples = forward(self.generator, self._per_replica(latents))
        return samples.unflatten(0, (len(self.settings.arms), len(self.settings.seeds)))

    def state_dict(self) -> dict[str, Any]:
        """All that :meth:`load_state_dict` needs to go on exactly; tensors, numbers, lists."""
        return {
            "version": STATE_VERSION,
            "step": self.step,
            "generator": [p.detach() for p in self.generator],
            "critic": [p.detach() for p in self.critic],
            "generator_optimizer": self.generator_optimizer.state_dict(),
            "critic_optimizer": self.critic_optimizer.state_dict(),
            "noise": self._noise.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where :meth:`state_dict` was called; the settings must be the same."""
        self.step = state["step"]
        with torch.no_grad():
            for name in ("generator", "critic"):
                for own, saved in zip(getattr(self, name), state[name], strict=True):
                    own.copy_(saved)
        self.generator_optimizer.load_state_dict(state["generator_optimizer"])
        self.critic_optimizer.load_state_dict(state["critic_optimizer"])
        self._noise.load_state_dict(state["noise"])
