"""NICE: adaptive multiplicative noise in the critic (Ni & Koniusz 2023, NeurIPS, "NICE:
NoIse-modulated Consistency rEgularization for Data-Efficient GANs").

Against an overfitted critic, the features behind each convolution of chosen blocks are multiplied
by noise of mean 1 and standard deviation beta, drawn for each sample and channel. Against the
larger gradients that the noise brings, the critic's features under two draws are held together: in
the critic's update the noised blocks run on the batch twice, and the squared distance of the two
feature vectors, summed over features and averaged over samples, is added for real and for
generated images. The first draw alone goes on to the loss. beta follows the critic's
overconfidence on real images::

    e <- 0.9 e + 0.1 mean(sign(logits of real images))
    beta <- clip(beta + speed sign(e - target))

after each of its updates. The authors' repository has no code: places of the noise and the rule
are theirs; the first noised block, target (0.5), speed (0.001, as in their later work) and the
weight are settings of this project. Noise acts in training mode only.

The scores that top-k training ranks are the noised ones; with a large beta the ranking is partly
random. ``nice/beta`` in the log is the whole story.
"""

from collections.abc import Iterator
from typing import Any, Final

import torch
from torch import Tensor, nn

from topk_plugin.base.errors import UserError
from topk_plugin.engine.keys.key import Key, When, switch
from topk_plugin.engine.keys.rules import Number, Whole
from topk_plugin.engine.keys.settings import Settings
from topk_plugin.engine.methods.method import CriticStep, Gan, Method, Term
from topk_plugin.engine.networks.backbones import backbone_of
from topk_plugin.engine.networks.scoring import Outputs, ScoringNetwork, WrappingHead
from topk_plugin.engine.networks.self_attention import SelfAttention
from topk_plugin.engine.networks.stack import in_order
from topk_plugin.gate import ranks

DIFFERENCE: Final = "nice_difference"
DECAY: Final = 0.9


class Noise(nn.Module):
    """What the noised blocks share.

    Attributes:
        beta: standard deviation of the noise, 0-d, fp32.
        confidence: e, 0-d, float64.
        twice: run the noised blocks on two draws.
        random: source of the noise; None: there is none.
    """

    beta: Tensor
    confidence: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("beta", torch.zeros(()))
        self.register_buffer("confidence", torch.zeros((), dtype=torch.float64))
        self.twice = False
        self.random: torch.Generator | None = None

    def forward(self, features: Tensor) -> Tensor:
        """Features [N, C, H, W] times noise of mean 1; as they are outside of training mode."""
        if not self.training or self.random is None:
            return features
        draws = 2 if self.twice else 1
        samples = len(features) // draws * ranks.world_size()
        shape = (draws, samples, features.shape[1])
        noise = torch.randn(
            shape, generator=self.random, device=features.device, dtype=torch.float32
        )
        own = ranks.own_part(noise.transpose(0, 1)).transpose(0, 1).flatten(0, 1)
        return features * (1 + self.beta * own[..., None, None]).to(features.dtype)

    @torch.no_grad()
    def adapt(self, real_logits: Tensor, target: float, speed: float) -> None:
        """Move beta after an update that gave ``real_logits`` [N], and those of other processes."""
        mean = ranks.gather_batch(real_logits).sign().double().mean()
        self.confidence.mul_(DECAY).add_(mean, alpha=1 - DECAY)
        step = (self.confidence - target).sign().float() * speed
        self.beta.add_(step).clamp_(0, 1)


class NiceHead(WrappingHead):
    """``head`` of the first draw; with a second one, also the distance of the two."""

    def outputs(self, critic: Any, h: Tensor, labels: Tensor) -> Outputs:
        if len(h) == len(labels):
            return self.head.outputs(critic, h, labels)
        first, second = h.chunk(2)
        outputs = self.head.outputs(critic, first, labels)
        difference = first - second
        precise = difference.to(torch.promote_types(difference.dtype, torch.float32))
        return outputs | {DIFFERENCE: precise.square().sum(1)}


def change_critic(critic: nn.Module, settings: Settings) -> nn.Module:
    """Put noise behind the convolutions of the blocks from LOSS.nice_from on.

    Raises:
        ValueError: the critic has no blocks.
    """
    if not isinstance(critic, ScoringNetwork) or not isinstance(critic.blocks, nn.ModuleList):
        raise ValueError("NICE puts noise into the blocks of a critic, and this one has none")
    blocks = [block for block in in_order(critic.blocks) if not isinstance(block, SelfAttention)]
    noise = Noise()
    critic.nice = noise

    def two_draws(block: nn.Module, args: tuple[Tensor]) -> tuple[Tensor] | None:
        return (torch.cat([args[0], args[0]]),) if noise.twice and critic.training else None

    def noised(convolution: nn.Module, args: tuple[Tensor], output: Tensor) -> Tensor:
        features: Tensor = noise(output)
        return features

    first = settings.LOSS.nice_from
    blocks[first - 1].register_forward_pre_hook(two_draws)
    for block in blocks[first - 1 :]:
        for module in block.modules():
            if isinstance(module, nn.Conv2d):
                module.register_forward_hook(noised)
    return critic


class Nice(Term):
    """The consistency of two draws, and the control of beta."""

    def __init__(self, settings: Settings) -> None:
        loss = settings.LOSS
        self._weight: float = loss.nice_lambda
        self._target: float = loss.nice_target
        self._speed: float = loss.nice_speed

    def setup(self, gan: Gan) -> None:
        noise = gan.critic.nice
        assert isinstance(noise, Noise)
        self._noise = noise
        noise.random = gan.random
        noise.twice = True

    def critic_terms(self, step: CriticStep) -> Iterator[Tensor]:
        self._real_logits = step.real_out["adv_output"]
        yield self._weight * step.real_out[DIFFERENCE].mean()
        yield self._weight * step.fake_out[DIFFERENCE].mean()

    def after_critic_update(self) -> None:
        self._noise.adapt(self._real_logits, self._target, self._speed)
        del self._real_logits

    def around_generator_update(self) -> "_OneDraw":
        return _OneDraw(self._noise)

    def scalars(self) -> dict[str, Tensor]:
        return {"nice/beta": self._noise.beta}


class _OneDraw:
    """The generator's update has no consistency term, so that one draw is enough."""

    def __init__(self, noise: Noise) -> None:
        self._noise = noise

    def __enter__(self) -> None:
        self._noise.twice = False

    def __exit__(self, *exception: object) -> None:
        self._noise.twice = True


def _check(settings: Settings) -> None:
    first = settings.LOSS.nice_from
    last = backbone_of(settings).blocks(settings.DATA.img_size)[1]
    if first > last:
        raise UserError(
            f"LOSS.nice_from is {first}, but the critic's blocks are numbered from 1 to {last}"
        )


NICE: Final = Method(
    "NICE",
    on=When("LOSS", "apply_nice"),
    term=Nice,
    keys=(
        switch("LOSS", "apply_nice", ours=True),
        Key("LOSS", "nice_lambda", 0.01, Number(at_least=0.0), ours=True),
        Key("LOSS", "nice_from", 2, Whole(1), ours=True, about="the first noised block"),
        Key("LOSS", "nice_target", 0.5, Number(above=-1.0, below=1.0), ours=True),
        Key("LOSS", "nice_speed", 0.001, Number(above=0.0, at_most=1.0), ours=True),
    ),
    check=_check,
    change_head=NiceHead,
    change_critic=change_critic,
)
