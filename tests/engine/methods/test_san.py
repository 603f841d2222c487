"""SAN against values worked out by hand, and in whole trainings."""

import pytest
import torch
from torch import Tensor

from tests.engine.tiny import CONTRASTIVE, tiny_images, tiny_trainer
from topk_plugin.engine.building import build_critic
from topk_plugin.engine.methods.adversarial import adversarial_loss
from topk_plugin.engine.methods.san import SanLinear

ON = {"LOSS": {"apply_san": True}}
NORM = {"LOSS": {"apply_san": True, "san_parametrization": "norm"}}
ROW = torch.zeros(1, dtype=torch.long)


def layer(parametrization: str, weight: tuple[float, float]) -> SanLinear:
    made = SanLinear(1, 2, parametrization).double()
    with torch.no_grad():
        length = torch.tensor(weight).double().norm()
        made.weight.copy_(torch.tensor([weight]).double())
        if made.scale is not None:
            made.scale.copy_(length[None])
            made.renormalize()
    return made


def critics_loss(made: SanLinear, name: str) -> tuple[Tensor, Tensor, Tensor]:
    """The loss of one real and one fake feature vector, and the two vectors."""
    real = torch.tensor([[0.3, 0.1]], dtype=torch.float64, requires_grad=True)
    fake = torch.tensor([[0.1, -0.2]], dtype=torch.float64, requires_grad=True)
    loss = adversarial_loss(name)
    (_, real_function, real_direction), (_, fake_function, fake_direction) = (
        made(h, ROW) for h in (real, fake)
    )
    total = loss.of_critic(real_function, fake_function)
    total = total + loss.of_generator(real_direction) - loss.of_generator(fake_direction)
    total.backward()
    return total.detach(), real, fake


def close(found: Tensor | None, *expected: float) -> None:
    assert found is not None
    torch.testing.assert_close(
        found.flatten(), torch.tensor(expected).double(), atol=1e-6, rtol=1e-5
    )


def test_hinge_with_an_inactive_side_by_hand() -> None:
    """With scores 1.3 and -0.5 the real side of the hinge is flat: the loss of the direction and
    that of the features differ, which tells the right form from the swapped one."""
    made = layer("norm", (3.0, 4.0))
    total, real, fake = critics_loss(made, "hinge")
    close(total, -1.3)
    close(made.weight.grad, -0.044, -0.092)
    close(real.grad, 0, 0)
    close(fake.grad, 3, 4)
    made = layer("scale", (3.0, 4.0))
    total, real, fake = critics_loss(made, "hinge")
    close(total, -1.3)
    close(made.weight.grad, 0.08, -0.06)
    close((made.weight.grad * made.weight).sum(), 0)
    close(made.scale.grad, -0.1)
    close(fake.grad, 3, 4)


def test_the_non_saturating_loss_by_hand() -> None:
    made = layer("norm", (3.0, 4.0))
    total, _, _ = critics_loss(made, "vanilla")
    close(total, -0.017983)
    close(made.weight.grad, 0.012692, -0.126315)


def test_the_parts_are_equal_in_value_and_the_logit_learns_like_a_linear_layers() -> None:
    torch.manual_seed(0)
    for parametrization in ("norm", "scale"):
        made = SanLinear(3, 5, parametrization).double()
        h = torch.randn(4, 5, dtype=torch.float64, requires_grad=True)
        labels = torch.tensor([0, 2, 1, 2])
        logits, function, direction = made(h, labels)
        torch.testing.assert_close(logits, function)
        torch.testing.assert_close(logits, direction)
        row = made.weight if made.scale is None else made.weight * made.scale[:, None]
        torch.testing.assert_close(logits, (row[labels] * h).sum(1))
        (gradient,) = torch.autograd.grad(logits.sum(), h)
        torch.testing.assert_close(gradient, row[labels])


@pytest.mark.parametrize(
    "conditioning",
    [{}, {"MODEL": {"d_cond_mtd": "W/O"}}, CONTRASTIVE],
    ids=["PD", "W/O", "2C"],
)
@pytest.mark.parametrize("on", [ON, NORM], ids=["scale", "norm"])
@pytest.mark.parametrize("loss", ["hinge", "vanilla", "least_square", "wasserstein"])
def test_it_trains_with_unit_directions(conditioning: dict, on: dict, loss: str) -> None:
    trainer = tiny_trainer(conditioning, on, {"LOSS": {"adv_loss": loss}})
    assert not hasattr(trainer.critic, "embedding") or conditioning == CONTRASTIVE
    before = trainer.critic.san.weight.clone()
    for _ in range(2):
        losses = trainer.step()
        assert all(torch.isfinite(value) for value in losses.values())
    weight = trainer.critic.san.weight
    assert not torch.equal(weight, before)
    assert len(weight) == (4 if not conditioning else 1)
    if on is ON:
        torch.testing.assert_close(weight.norm(dim=1), torch.ones(len(weight)))
    assert trainer.scalars()["san/scale"] > 0
    images = tiny_images(6)
    out = trainer.critic(images.images.float(), images.labels)
    torch.testing.assert_close(out["adv_output"], out["san_function"])


def test_the_critic_without_it_is_untouched() -> None:
    plain, changed = (tiny_trainer(change).config for change in ({}, ON))
    torch.manual_seed(0)
    names = set(build_critic(plain).state_dict())
    san = set(build_critic(changed).state_dict())
    assert san - names == {"san.weight", "san.scale"}
    assert {name.split(".")[0] for name in names - san} == {"linear1", "embedding"}
