"""Relativistic losses: values by hand, and which rows get gradient under top-k training."""

import math
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn

from tests.engine.tiny import gate_of, tiny_config, tiny_trainer
from topk_plugin.base.errors import UserError
from topk_plugin.engine.methods.relativistic import RelativisticLoss, average, paired

REAL, FAKE = torch.tensor([1.0, 2.0]), torch.tensor([0.0, 1.0])


def softplus(x: float) -> float:
    return math.log1p(math.exp(x))


def losses(loss) -> tuple[Tensor, Tensor]:
    term = RelativisticLoss(loss)
    (of_critic,) = term.critic_terms(SimpleNamespace(real_logits=REAL, fake_logits=FAKE))
    real = SimpleNamespace(images=None, labels=None)
    look = lambda images, labels: {"adv_output": REAL}  # noqa: E731
    (of_generator,) = term.generator_terms(SimpleNamespace(logits=FAKE, look=look, real=real))
    return of_critic, of_generator


def test_values_by_hand() -> None:
    of_critic, of_generator = losses(average)
    assert of_critic.item() == pytest.approx(0.675490, abs=1e-6)
    assert of_generator.item() == pytest.approx(2.675490, abs=1e-6)
    of_critic, of_generator = losses(paired)
    assert of_critic.item() == pytest.approx(softplus(-1), abs=1e-6)
    assert of_generator.item() == pytest.approx(softplus(1), abs=1e-6)


@pytest.mark.parametrize("name", ["relativistic", "relativistic_average"])
def test_exactly_k_fakes_get_gradient_and_reals_stay_out_of_the_selection(name: str) -> None:
    trainer = tiny_trainer({"LOSS": {"adv_loss": name, "topk_every": 1}})
    for _ in range(2):
        trainer.step()
    seen: list[Tensor] = []

    def watch(module: nn.Module, args: tuple, images: Tensor) -> None:
        images.register_hook(seen.append)

    trainer.generator.register_forward_hook(watch)
    trainer._train_generator()
    mask = gate_of(trainer).stats.mask
    assert mask.sum() == 2
    assert len(mask) == 8
    assert torch.equal((seen[0] != 0).flatten(1).any(1), mask)


def test_a_dropped_fake_changes_the_average_loss_but_not_the_paired_one() -> None:
    """What the gradient of the kept fake depends on."""
    for loss, coupled in ((paired, False), (average, True)):
        gradients = []
        for other in (0.0, 5.0):
            fake = torch.tensor([1.0, other], requires_grad=True)
            (gradient,) = torch.autograd.grad(loss(fake, REAL), fake)
            gradients.append(gradient[0].item())
        assert (gradients[0] != pytest.approx(gradients[1])) == coupled


@pytest.mark.parametrize("change", [{"topk_mode": "slice"}, {"apply_san": True}])
def test_what_needs_single_logits_is_refused(change: dict) -> None:
    with pytest.raises(UserError, match=r"LOSS\.adv_loss"):
        tiny_config({"LOSS": {"adv_loss": "relativistic", **change}})
