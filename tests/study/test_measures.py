"""Measures of a run, anomaly detection, and the subsets behind them."""

import pytest
import torch
from torch import nn

from tests.engine.tiny import tiny_images, tiny_trainer
from topk_plugin.base.errors import UserError
from topk_plugin.engine.critic_scores import critic_scores
from topk_plugin.study.worker import anomaly_detection, without_class


def test_scores_are_the_critics_in_evaluation_mode_and_leave_it_alone() -> None:
    trainer = tiny_trainer()
    images = tiny_images(11)
    before = {name: value.clone() for name, value in trainer.critic.state_dict().items()}
    scores = critic_scores(trainer, images.images, images.labels)
    critic = trainer.critic.eval()
    pixels = images.images.float() / 127.5 - 1
    expected = critic(pixels, images.labels)["adv_output"]
    torch.testing.assert_close(scores, expected.detach())
    for name, value in critic.state_dict().items():
        assert torch.equal(value, before[name])


def test_a_held_out_class_is_gone_and_the_labels_stay() -> None:
    images = tiny_images(40)
    rest = without_class(images, "class 2")
    assert len(rest) == 30
    assert set(rest.labels.tolist()) == {0, 1, 3}
    assert torch.equal(rest.images[rest.labels == 3], images.images[images.labels == 3])
    with pytest.raises(UserError, match="no class 'dog' to hold out; it has class 0, class 1"):
        without_class(images, "dog")


class Brightness(nn.Module):
    """Scores dark images lower, by the red channel."""

    def forward(self, images: torch.Tensor, labels: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"adv_output": images[:, 0].mean((1, 2))}


def test_anomalies_are_found_by_low_scores() -> None:
    trainer, images = tiny_trainer(), tiny_images(40)  # a class is brighter than the one before it
    trainer.critic = Brightness()
    found = anomaly_detection(trainer, images, "class 0")
    assert found == {"auroc": 1.0, "auprc": 1.0, "share": 0.25}
    assert anomaly_detection(trainer, images, "class 3")["auroc"] == 0.0
