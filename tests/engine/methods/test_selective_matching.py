"""Selective data matching by hand, and in a training."""

import pytest
import torch

from tests.engine.tiny import CONTRASTIVE, gate_of, tiny_config, tiny_trainer
from topk_plugin.base.errors import UserError
from topk_plugin.engine.methods.adversarial import adversarial_loss
from topk_plugin.engine.methods.selective_matching import focused

C = torch.tensor([0.5, 2.0, -1.0, 1.0])
U = torch.tensor([0.1, 0.2, 0.3, 0.4])


def test_the_best_class_logits_stand_alone() -> None:
    u = U.clone().requires_grad_()
    out = focused(u + C, C, 2)
    torch.testing.assert_close(out, torch.tensor([0.6, 2.0, -0.7, 1.0]))
    hinge = adversarial_loss("hinge")
    assert hinge.of_generator(out).item() == pytest.approx(-0.725)
    fake = hinge.of_critic(torch.full((4,), 2.0), out)  # the real side is 0
    real = hinge.of_critic(out, torch.full((4,), -2.0))  # the fake side is 0
    assert (fake.item(), real.item()) == (pytest.approx(1.725), pytest.approx(0.525))
    (gradient,) = torch.autograd.grad(out.sum(), u)
    assert gradient.tolist() == [1, 0, 1, 0]
    assert torch.equal(focused(U, C, 0), U)
    assert torch.equal(focused(U, C, 4), C)


def test_the_share_grows_as_scheduled() -> None:
    """Batch 128, half of it at the end, ten units of training."""
    trainer = tiny_trainer(
        {"LOSS": {"apply_sfl": True}, "OPTIMIZATION": {"total_steps": 50, "batch_size": 8}}
    )
    term = trainer.terms["selective matching"]  # 40 images are 5 batches: e = steps / 5
    shares = []
    for steps in (0, 5, 25, 49.95, 50, 500):
        trainer.progress.steps = steps
        shares.append(int(128 * term.share + 1e-4))
    assert shares == [0, 8, 37, 63, 64, 64]


def test_top_k_ranks_by_the_whole_score() -> None:
    trainer = tiny_trainer({"LOSS": {"apply_sfl": True, "topk_every": 1, "sfl_share": 0.9}})
    trainer.progress.steps = trainer.config.OPTIMIZATION.total_steps
    seen: list = []
    trainer.critic.register_forward_hook(lambda module, args, out: seen.append(out))
    trainer._train_generator()
    stats, out = gate_of(trainer).stats, seen[-1]
    torch.testing.assert_close(stats.scores, out["adv_output"].detach())
    whole = trainer.critic.linear1(out["h"]).squeeze(1) + out["class_logit"]
    torch.testing.assert_close(out["adv_output"], whole, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ([CONTRASTIVE], "d_cond_mtd 'PD'"),
        ([{"LOSS": {"apply_san": True}}], "one direction a class"),
        ([{"LOSS": {"topk_mode": "slice"}}], "use topk_mode 'gate'"),
    ],
)
def test_what_it_does_not_go_with_is_refused(changes: list[dict], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        tiny_config({"LOSS": {"apply_sfl": True}}, *changes)
