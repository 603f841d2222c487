"""K+1 critics by hand, against K+1 classes written out, and in a training."""

import math
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from tests.engine.tiny import gate_of, tiny_config, tiny_images, tiny_trainer
from topk_plugin.base.errors import UserError
from topk_plugin.engine.accuracy import critic_accuracy
from topk_plugin.engine.methods.adversarial import logistic_critic
from topk_plugin.engine.methods.auxiliary_classifier import classification_loss
from topk_plugin.engine.methods.semi_supervised import SemiSupervisedHead, labelled_images
from topk_plugin.engine.plan import describe_plan

ON = {
    "DATA": {"labels_per_class": 3},
    "MODEL": {"d_cond_mtd": "K+1"},
    "LOSS": {"adv_loss": "vanilla", "cond_lambda": 2.0},
}


def outputs(logits: Tensor) -> dict:
    critic = SimpleNamespace(linear1=lambda h: logits)
    return SemiSupervisedHead(tiny_config(ON)).outputs(critic, logits, torch.zeros(len(logits)))


def test_one_sample_by_hand() -> None:
    out = outputs(torch.tensor([[1.0, 2.0, 0.0]]))
    score = out["adv_output"]
    assert score.item() == pytest.approx(2.407606, abs=1e-6)
    assert score.sigmoid().item() == pytest.approx(0.917405, abs=1e-6)
    label = torch.tensor([1])
    assert classification_loss(out["cls_output"], label).item() == pytest.approx(0.407606, abs=1e-6)
    nothing = torch.tensor([-200.0])  # a fake that costs nothing, and a real one
    real, fake = logistic_critic(score, nothing) / 2, logistic_critic(-nothing, score) / 2
    assert real.item() == pytest.approx(0.043103, abs=1e-6)
    assert fake.item() == pytest.approx(1.246906, abs=1e-6)


@given(st.integers(0, 2**31))
def test_the_sum_is_the_loss_of_k_plus_one_classes(seed: int) -> None:
    """Of a softmax over K classes and "generated", the authors' weights times 2."""
    source = torch.Generator().manual_seed(seed)
    labelled, real, fake = (
        3 * torch.randn(n, 5, generator=source, dtype=torch.float64) for n in (4, 6, 3)
    )
    labels = torch.randint(5, (4,), generator=source)
    slow = 0.0
    for z, y in zip(labelled.tolist(), labels.tolist(), strict=True):
        slow -= math.log(math.exp(z[y]) / sum(map(math.exp, z))) / len(labelled)
    for z in real.tolist():
        slow -= 0.5 * math.log(1 - 1 / (1 + sum(map(math.exp, z)))) / len(real)
    for z in fake.tolist():
        slow -= 0.5 * math.log(1 / (1 + sum(map(math.exp, z)))) / len(fake)
    adversarial = logistic_critic(outputs(real)["adv_output"], outputs(fake)["adv_output"])
    ours = adversarial + 2.0 * classification_loss(labelled, labels)
    assert ours.item() == pytest.approx(2 * slow)


@given(st.lists(st.integers(0, 3), min_size=1, max_size=40), st.integers(1, 4), st.integers(0, 99))
def test_as_many_of_each_class_are_labelled(classes: list[int], per_class: int, seed: int) -> None:
    labels = torch.tensor(classes)
    counts = [classes.count(label) for label in set(classes)]
    if min(counts) < per_class:
        with pytest.raises(UserError, match="fewer images of class"):
            labelled_images(labels, per_class, seed)
        return
    chosen = labelled_images(labels, per_class, seed)
    assert chosen.tolist() == sorted(set(chosen.tolist()))
    assert labels[chosen].bincount().tolist() == [
        per_class if label in classes else 0 for label in range(max(classes) + 1)
    ]
    assert torch.equal(chosen, labelled_images(labels, per_class, seed))


def test_no_label_but_the_given_ones_is_used() -> None:
    """The critic's gradient is the same when all other images are called something else."""
    gradients, images = [], tiny_images()
    for shift in (0, 1):
        trainer = tiny_trainer(ON)
        labelled = trainer.terms["K+1"]._stream
        shown: list[Tensor] = []
        before = labelled.next_step

        def watched(before=before, shown=shown) -> list:
            batches = before()
            shown.extend(batch.labels for batch in batches)
            return batches

        labelled.next_step = watched
        trainer.stream._labels = (images.labels + shift) % 4
        trainer.step()
        gradients.append([p.grad.clone() for p in trainer.critic.parameters()])
        assert all(len(labels) == 8 for labels in shown)  # of the 12 labelled ones
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))


def test_classes_are_learnt_and_accuracy_is_measured() -> None:
    """Brightness tells the tiny set's classes apart."""
    trainer = tiny_trainer(ON, {"OPTIMIZATION": {"d_lr": 2e-3, "d_updates_per_step": 1}})
    device = torch.device("cpu")

    def accuracy() -> float | None:
        trainer.critic.eval()
        return critic_accuracy(trainer.critic, tiny_images(), batch_size=7, device=device)

    before = accuracy()
    for _ in range(30):
        losses = trainer.step()
    assert accuracy() > max(0.7, before)
    assert losses["accuracy/labelled"] > 0.7
    trainer.critic.eval()
    slow = 0
    for image, label in zip(tiny_images().images, tiny_images().labels, strict=True):
        out = trainer.critic(image[None].float() / 127.5 - 1, label[None])
        slow += int(out["cls_output"].argmax() == label)
    assert accuracy() == slow / 40


def test_a_critic_without_classes_has_no_accuracy() -> None:
    critic = tiny_trainer().critic.eval()
    assert critic_accuracy(critic, tiny_images(), batch_size=8, device=torch.device("cpu")) is None


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_resuming_is_exact(precision: str) -> None:
    straight, stopped, resumed = (tiny_trainer(ON, precision=precision) for _ in range(3))
    for _ in range(4):
        straight.step()
    for _ in range(2):
        stopped.step()
    resumed.load_state_dict(stopped.state_dict())
    for _ in range(2):
        resumed.step()
    pairs = zip(straight.critic.parameters(), resumed.critic.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


def test_top_k_ranks_by_the_log_sum() -> None:
    trainer = tiny_trainer(ON)
    seen: list = []
    trainer.critic.register_forward_hook(lambda module, args, out: seen.append(out))
    trainer._train_generator()
    expected = seen[-1]["cls_output"].detach().logsumexp(1)
    torch.testing.assert_close(gate_of(trainer).stats.scores, expected)


def test_what_it_does_not_go_with_is_said() -> None:
    with pytest.raises(UserError, match="use 'vanilla'"):
        tiny_config(ON, {"LOSS": {"adv_loss": "hinge"}})
    with pytest.raises(UserError, match=r"needs DATA\.labels_per_class"):
        tiny_config({"MODEL": ON["MODEL"], "LOSS": ON["LOSS"]})
    with pytest.raises(UserError, match="only 'K\\+1' read it"):
        tiny_config({"DATA": ON["DATA"]})
    plan = "\n".join(describe_plan(tiny_config(ON), images=40, steps_per_epoch=2.0))
    assert "from 3 labelled images of each" in plan
    assert "never asks whether an image is of its class" in plan
