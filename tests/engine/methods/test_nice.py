"""NICE: the noise, its control, and the two draws of one forward pass."""

import pytest
import torch

from tests.engine.tiny import tiny_config, tiny_trainer
from topk_plugin.base.errors import UserError
from topk_plugin.engine.methods.nice import DIFFERENCE, Noise

ON = {"LOSS": {"apply_nice": True}}


def test_the_noise_has_mean_one_and_deviation_beta() -> None:
    noise = Noise()
    noise.random = torch.Generator().manual_seed(0)
    x = torch.ones(200, 100, 2, 2)
    assert torch.equal(noise(x), x)  # beta starts at 0
    noise.beta.fill_(0.3)
    y = noise(x)
    assert y.mean().item() == pytest.approx(1, abs=0.01)
    assert y.std().item() == pytest.approx(0.3, rel=0.02)
    assert torch.equal(y, y[..., :1, :1].expand_as(y))  # one number a sample and channel
    noise.eval()
    assert torch.equal(noise(x), x)


def test_two_draws_of_a_linear_head_differ_as_expected() -> None:
    """E (w (z1 - z2) x)^2 = 2 beta^2 sum of w^2 x^2."""
    noise = Noise()
    noise.random = torch.Generator().manual_seed(1)
    noise.beta.fill_(0.2)
    w, x = torch.tensor([1.0, -2.0, 0.5]), torch.tensor([0.3, 1.0, -2.0])
    rows = x.expand(40_000, 3)[..., None, None]
    first, second = ((noise(rows).flatten(1) * w).sum(1) for _ in range(2))
    expected = 2 * 0.2**2 * (w * x).square().sum()
    assert (first - second).square().mean().item() == pytest.approx(expected.item(), rel=0.05)


def test_the_controller_by_hand() -> None:
    noise = Noise()
    for step in range(1, 12):
        noise.adapt(torch.ones(4), target=0.5, speed=0.001)
        assert noise.confidence.item() == pytest.approx(1 - 0.9**step)
        # 0.4686 after 6 steps, 0.5217 after 7
        assert noise.beta.item() == pytest.approx(max(0, 0.001 * (step - 6)), abs=1e-7)
    for _ in range(40):
        noise.adapt(-torch.ones(4), target=0.5, speed=0.001)
    assert noise.beta == 0


def test_without_noise_the_scores_are_the_critics_own_and_the_draws_agree() -> None:
    plain, noisy = tiny_trainer(), tiny_trainer(ON)
    images, labels = torch.rand(4, 3, 32, 32), torch.arange(4)
    noisy.critic.load_state_dict(plain.critic.state_dict(), strict=False)
    for trainer in (plain, noisy):
        trainer.critic.train()
    expected, found = plain.critic(images, labels), noisy.critic(images, labels)
    torch.testing.assert_close(found["adv_output"], expected["adv_output"])
    assert found[DIFFERENCE].abs().max() < 1e-8
    with torch.no_grad():
        noisy.critic.nice.beta.fill_(0.5)
    found = noisy.critic(images, labels)
    assert found[DIFFERENCE].shape == (4,)
    assert found[DIFFERENCE].min() > 0
    noisy.critic.eval()
    assert DIFFERENCE not in noisy.critic(images, labels)


def test_the_generators_update_has_one_draw_and_beta_is_saved() -> None:
    trainer = tiny_trainer(ON, {"LOSS": {"nice_target": -0.9, "nice_speed": 0.1}})
    shapes: list[int] = []
    trainer.critic.blocks[-1][0].register_forward_hook(
        lambda module, args, out: shapes.append(len(out))
    )
    trainer._train_generator()
    assert shapes == [8]
    trainer._train_critic()
    assert shapes[1:] == [16] * 4
    assert trainer.scalars()["nice/beta"] > 0
    resumed = tiny_trainer(ON)
    resumed.load_state_dict(trainer.state_dict())
    assert resumed.scalars()["nice/beta"] == trainer.scalars()["nice/beta"]


def test_a_block_that_is_not_there_is_refused() -> None:
    with pytest.raises(UserError, match=r"numbered from 1 to 4"):
        tiny_config({"LOSS": {"apply_nice": True, "nice_from": 5}})
