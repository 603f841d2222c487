"""SAN: the critic's last layer learns its direction by a loss of its own (arXiv 2301.12811).

Takida et al. 2024, "SAN: Inducing Metrizability of GAN with Discriminative Normalized Linear
Layer". The last linear layer is f(x) = c <omega, h(x)> with a unit vector omega. In the critic's
update the adversarial loss sees f_fun, in which omega is a constant, and the direction learns from
f_dir, in which everything but omega is::

    loss = adversarial(f_fun) + mean J(f_dir(real)) - mean J(f_dir(fake))

J is the generator's loss of a logit (for hinge J(s) = -s, as in the authors' code; that J follows
the adversarial loss is inferred from their code for other losses). The generator's update sees
f itself. With projection (PD) every class has a direction and a scale of its own, in place of
StudioGAN's sum of an unconditional and a class's weight, which describes the same functions.
"""

from collections.abc import Iterator
from typing import Any, Final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from topk_plugin.base.errors import UserError
from topk_plugin.engine.keys.key import Key, When, switch
from topk_plugin.engine.keys.rules import OneOf
from topk_plugin.engine.keys.settings import Settings
from topk_plugin.engine.methods.adversarial import adversarial_loss, has_logit_losses
from topk_plugin.engine.methods.method import CriticStep, Gan, Method, Term
from topk_plugin.engine.networks.scoring import Head, Outputs, ScoringNetwork, WrappingHead

SHORTEST = 1e-12
FUNCTION, DIRECTION = "san_function", "san_direction"


class SanLinear(nn.Module):
    """Unit directions and scales, one pair a row; no bias, no spectral normalisation.

    Args:
        rows: classes, or 1.
        features: length of h.
        parametrization: "norm": one weight a row, whose length is the scale and whose direction is
            omega (the authors' tutorial); "scale": a unit weight and a scale (their layers), to be
            brought back to unit length after each step of the optimiser by :meth:`renormalize`.
    """

    def __init__(self, rows: int, features: int, parametrization: str) -> None:
        super().__init__()
        weight = torch.randn(rows, features)
        self.scale: nn.Parameter | None = None
        if parametrization == "scale":
            self.scale = nn.Parameter(weight.norm(dim=1))
            weight = F.normalize(weight, dim=1, eps=SHORTEST)
        self.weight = nn.Parameter(weight)

    def forward(self, h: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The logits and their two parts.

        Args:
            h: features [N, D]; half precisions are raised to fp32.
            labels: rows of the layer, int64 [N].

        Returns:
            f, f_fun and f_dir, each [N] and equal in value.
        """
        h = h.to(torch.promote_types(h.dtype, torch.float32))
        with torch.autocast(h.device.type, enabled=False):
            weight = self.weight[labels]
            scale = weight.norm(dim=1) if self.scale is None else self.scale[labels]
            # normalised also where it is of unit length: the gradient then has no radial part
            omega = F.normalize(weight, dim=1, eps=SHORTEST)
            function = scale * (omega.detach() * h).sum(1)
            direction = scale.detach() * (omega * h.detach()).sum(1)
            return scale * (omega * h).sum(1), function, direction

    @torch.no_grad()
    def renormalize(self) -> None:
        """Bring the weights of "scale" back to unit length."""
        if self.scale is not None:
            self.weight.copy_(F.normalize(self.weight, dim=1, eps=SHORTEST))


class SanHead(WrappingHead):
    """``head`` with a :class:`SanLinear` in the place of the layer that scores."""

    def __init__(self, head: Head) -> None:
        super().__init__(head)
        self._by_class = head.settings.MODEL.d_cond_mtd == "PD"

    def outputs(self, critic: Any, h: Tensor, labels: Tensor) -> Outputs:
        # what the wrapped head adds beside the score, from a critic whose score is not read
        rows = labels if self._by_class else torch.zeros_like(labels)
        logits, function, direction = critic.san(h, rows.long())
        outputs = self.head.outputs(critic, h, labels)
        return outputs | {"adv_output": logits, FUNCTION: function, DIRECTION: direction}


class _NoScore(nn.Module):
    """In place of the layer that scored: its place in the head's formula, and no parameters."""

    def forward(self, h: Tensor) -> Tensor:
        return h.new_zeros(len(h), 1)


def change_critic(critic: nn.Module, settings: Settings) -> nn.Module:
    """Replace the layer (and the projection) that scores.

    Raises:
        ValueError: the critic has no such layer.
    """
    if not isinstance(critic, ScoringNetwork) or not isinstance(critic.linear1, nn.Linear):
        raise ValueError("SAN replaces the critic's last linear layer, and this critic has none")
    by_class = settings.MODEL.d_cond_mtd == "PD"
    rows = settings.DATA.num_classes if by_class else 1
    features = critic.linear1.in_features
    critic.san = SanLinear(rows, features, settings.LOSS.san_parametrization)
    critic.linear1 = _NoScore()
    if by_class:
        del critic.embedding
    # what other methods put around the head goes on to give it the features that it scores
    critic.head = critic.head.with_innermost(
        lambda head: SanHead(Head(settings) if by_class else head)
    )
    return critic


class San(Term):
    """The direction's loss, and unit vectors after each step."""

    def __init__(self, settings: Settings) -> None:
        self._loss = adversarial_loss(settings.LOSS.adv_loss)

    def setup(self, gan: Gan) -> None:
        self._layer: SanLinear = gan.critic.san  # type: ignore[assignment]

    def critic_logits(self, logits: Any, out: Outputs) -> Tensor:
        function: Tensor = out[FUNCTION]
        return function

    def critic_terms(self, step: CriticStep) -> Iterator[Tensor]:
        of = self._loss.of_generator
        yield of(step.real_out[DIRECTION]) - of(step.fake_out[DIRECTION])

    def after_critic_update(self) -> None:
        self._layer.renormalize()

    def scalars(self) -> dict[str, Tensor]:
        scale = self._layer.scale
        length = self._layer.weight.norm(dim=1) if scale is None else scale
        return {"san/scale": length.mean()}


def _check(settings: Settings) -> None:
    if not has_logit_losses(settings.LOSS.adv_loss):
        raise UserError(
            f"LOSS.apply_san needs a loss of each logit alone, and LOSS.adv_loss "
            f"{settings.LOSS.adv_loss!r} compares logits; use another adv_loss, or leave it out"
        )


SAN: Final = Method(
    "SAN",
    on=When("LOSS", "apply_san"),
    term=San,
    keys=(
        switch("LOSS", "apply_san", ours=True),
        Key(
            "LOSS",
            "san_parametrization",
            "scale",
            OneOf(("scale", "norm")),
            ours=True,
            about="a unit weight and a scale, or one weight whose length is the scale",
        ),
    ),
    check=_check,
    change_critic=change_critic,
)
