"""docs/extending.md: every example is one file and one line, and works."""

import re
from pathlib import Path

import pytest
import torch
import yaml

from tests.engine.tiny import tiny_config, tiny_images
from topk_plugin import keep_mask
from topk_plugin.engine.config.config import Config
from topk_plugin.engine.data import open as opening
from topk_plugin.engine.methods import registry
from topk_plugin.engine.networks import backbones
from topk_plugin.engine.trainer import Trainer
from topk_plugin.evaluation import metrics
from topk_plugin.gate import policies

PAGE = (Path(__file__).parents[1] / "docs" / "extending.md").read_text(encoding="utf-8")
SECTIONS = dict(
    re.findall(r"^## (?:An? )?(.+?)\n(.*?)(?=^## |\Z)", PAGE, flags=re.MULTILINE | re.DOTALL)
)


@pytest.fixture
def extended(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> dict:
    """What a section's example defines, and the keys of its YAML, registered for one test."""
    monkeypatch.setattr(registry, "_registered", [])
    monkeypatch.setattr(backbones, "_registered", [])
    for entries in (policies.POLICIES, opening.NAMED_SETS, metrics.METRICS):
        for name in entries:  # what is added in the test is taken away after it
            monkeypatch.setitem(entries, name, entries[name])
    section = SECTIONS[request.param]
    names: dict = {}
    for block in re.findall(r"```python\n(.*?)```", section, flags=re.DOTALL):
        exec(compile(block, f"docs/extending.md: {request.param}", "exec"), names)
    keys = re.findall(r"```yaml\n(.*?)```", section, flags=re.DOTALL)
    names["keys"] = yaml.safe_load(keys[0]) if keys else {}
    return names


def _restore(registry_: dict, before: dict) -> None:
    registry_.clear()
    registry_.update(before)


def test_every_section_is_tried() -> None:
    assert SECTIONS.keys() == {
        "adversarial loss",
        "regulariser",
        "backbone",
        "policy",
        "data set with a name",
        "metric",
    }


def trained(config: Config, steps: int = 3) -> Trainer:
    trainer = Trainer(config, tiny_images(), seed=0, device=torch.device("cpu"))
    for _ in range(steps):
        losses = trainer.step()
        assert all(torch.isfinite(loss) for loss in losses.values())
    return trainer


@pytest.mark.parametrize("extended", ["adversarial loss"], indirect=True)
def test_an_adversarial_loss(extended: dict) -> None:
    plain = trained(tiny_config())
    changed = trained(tiny_config(extended["keys"]))
    assert not torch.equal(plain.generator.linear0.bias, changed.generator.linear0.bias)
    real, fake = torch.tensor([0.0, 2.0]), torch.tensor([0.0])
    assert extended["critic"](real, fake).item() == 1 / 2 + 1


@pytest.mark.parametrize("extended", ["regulariser"], indirect=True)
def test_a_regulariser_with_state_and_scalars(extended: dict) -> None:
    config = tiny_config(extended["keys"])
    assert Config.from_dict(config.to_dict()) == config
    trainer = trained(config)
    largest = trainer.scalars()["drift/largest_real_score"]
    assert largest > 0
    resumed = Trainer(config, tiny_images(), seed=0, device=torch.device("cpu"))
    resumed.load_state_dict(trainer.state_dict())
    assert torch.equal(resumed.scalars()["drift/largest_real_score"], largest)
    with pytest.raises(Exception, match=r"LOSS\.drift_lambda is 1 but has no effect"):
        tiny_config({"LOSS": {"drift_lambda": 1}})
    with pytest.raises(Exception, match=r"LOSS\.apply_drift needs LOSS\.drift_lambda"):
        tiny_config({"LOSS": {"apply_drift": True}})


@pytest.mark.parametrize("extended", ["backbone"], indirect=True)
@pytest.mark.parametrize("conditioning", ["W/O", "PD"])
def test_a_backbone(extended: dict, conditioning: str) -> None:
    plain = {"MODEL": {"apply_attn": False, "attn_g_loc": "N/A", "attn_d_loc": "N/A"}}
    unshared = {"MODEL": {"g_shared_dim": "N/A", "d_cond_mtd": conditioning}}
    trainer = trained(tiny_config(extended["keys"], plain, unshared))
    assert isinstance(trainer.generator, extended["FlatGenerator"])
    assert trainer.averaged_generator() is not None


@pytest.mark.parametrize("extended", ["policy"], indirect=True)
def test_a_policy(extended: dict) -> None:
    scores = torch.tensor([5.0, 1.0, 3.0, 2.0, float("nan"), -9.0])
    kept = keep_mask(scores, 2, policy="middle")
    assert kept.tolist() == [False, True, False, True, False, False]  # the median is 2
    trainer = trained(tiny_config(extended["keys"]))
    assert trainer.config.LOSS.topk_policy == "middle"


@pytest.mark.parametrize("extended", ["data set with a name"], indirect=True)
def test_a_data_set(extended: dict) -> None:
    images = opening.open_images("Stripes", None, img_size=32, num_classes=2)
    assert len(images) == 200
    assert images.images[0].float().std(-2).max() == 0  # vertical stripes
    config = tiny_config(extended["keys"])
    Trainer(config, images, seed=0, device=torch.device("cpu")).step()


@pytest.mark.parametrize("extended", ["metric"], indirect=True)
def test_a_metric(extended: dict) -> None:
    values = extended["METRICS"]["mean"].values
    features = torch.tensor([[0.0, 0.0], [2.0, 0.0]])
    generated = metrics.record.Generated(features + 3, features)
    reference = metrics.record.Reference(features)
    assert values(generated, reference, 0) == (pytest.approx(3 * 2**0.5),)
    assert not metrics.higher_is_better("mean_distance")
    metrics.check_metrics(["mean"])
