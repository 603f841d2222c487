"""What the two networks minimise on one batch: the terms of all methods, in their order.

The order matters: every call of a critic with spectral normalisation is a power iteration, and
every augmentation draws from the same random stream.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from topk_plugin.engine.data.stream import Batch
from topk_plugin.engine.methods.method import CriticStep, Fakes, GeneratorStep, Term
from topk_plugin.engine.networks.scoring import Outputs


class CriticInput(nn.Module):
    """The critic behind the views of all methods.

    Hooks on this module act in front of every view, so that one row of a gradient is one sample.
    The critic is not a submodule: state_dict, mode and device are the critic's own affair.
    """

    def __init__(self, critic: nn.Module, terms: Iterable[Term]) -> None:
        super().__init__()
        self._critic: Callable[[Tensor, Tensor], Outputs] = critic.__call__
        self._terms = tuple(terms)

    def forward(self, images: Tensor, labels: Tensor, *, viewed: bool) -> Outputs:
        """The critic's outputs, half precisions raised to fp32 for the losses.

        Args:
            images: [N, 3, H, W].
            labels: int64 [N].
            viewed: through the methods' views, or as they are.
        """
        if viewed:
            for term in self._terms:
                images = term.view(images)
        return {name: _precise(value) for name, value in self._critic(images, labels).items()}


def _precise(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return [_precise(part) for part in value]
    if isinstance(value, Tensor) and value.dtype in (torch.bfloat16, torch.float16):
        return value.float()
    return value


class Objectives:
    """The losses of a training.

    Args:
        terms: of all methods that are on, in the order in which they act.
        critic_input: the critic behind the methods' views.

    Attributes:
        critic_input: the same; the place for hooks.
    """

    def __init__(self, terms: Sequence[Term], critic_input: nn.Module) -> None:
        self._terms = terms
        self.critic_input = critic_input
        self._gradient_at_real = any(term.needs.gradient_at_real for term in terms)
        self._gradient_at_fakes = any(term.needs.gradient_at_fakes for term in terms)

    def of_critic(self, real: Batch, fakes: Fakes, *, steps: int) -> dict[str, Tensor]:
        """The critic's loss and the parts of it that are logged too.

        Args:
            real: a batch of N real images.
            fakes: N generated ones, without gradient.
            steps: training steps that are over.

        Returns:
            Scalars: ``loss/discriminator``, and what methods log, such as ``loss/conditional`` (of
            real images).
        """
        if self._gradient_at_real:
            real = real._replace(images=real.images.detach().requires_grad_())
        if self._gradient_at_fakes:
            fakes = replace(fakes, images=fakes.images.detach().requires_grad_())
        real_out = self._look(real.images, real.labels)
        fake_out = self._look(fakes.images, fakes.labels)
        step = CriticStep(
            real,
            fakes,
            real_out,
            fake_out,
            real_logits=self._real_logits(real_out, real),
            fake_logits=self._fake_logits(fake_out),
            steps=steps,
            criticise=self.criticise,
        )
        total = _sum(value for term in self._terms for value in term.critic_terms(step))
        return step.logged | {"loss/discriminator": total}

    def of_generator(self, fakes: Fakes, real: Batch | None) -> Tensor:
        """The generator's loss, a scalar.

        Args:
            fakes: N of them, with gradient.
            real: a real batch where a method needs one.
        """
        out = self._look(fakes.images, fakes.labels)
        logits = out["adv_output"]
        for term in self._terms:
            logits = term.generator_logits(logits, out)
        step = GeneratorStep(fakes, out, logits, look=self._look, real=real)
        return _sum(value for term in self._terms for value in term.generator_terms(step))

    def criticise(self, images: Tensor, labels: Tensor) -> Outputs:
        """The critic's outputs of images as they are."""
        outputs: Outputs = self.critic_input(images, labels, viewed=False)
        return outputs

    def _look(self, images: Tensor, labels: Tensor) -> Outputs:
        outputs: Outputs = self.critic_input(images, labels, viewed=True)
        return outputs

    def _real_logits(self, out: Outputs, real: Batch) -> Any:
        logits = out["adv_output"]
        for term in self._terms:
            logits = term.real_logits(logits, out, real)
        return logits

    def _fake_logits(self, out: Outputs) -> Any:
        logits = out["adv_output"]
        for term in self._terms:
            logits = term.critic_logits(logits, out)
        return logits


def _sum(values: Iterable[Tensor]) -> Tensor:
    """The sum in the order given; there is always an adversarial loss."""
    first, *rest = values
    return sum(rest, first)
