"""What diagnostics say, against the gate itself and slow counting, and that they leave no trace."""

import json
from contextlib import nullcontext
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from tests.engine.tiny import COMPANIONS, CONTRASTIVE, ICR, REGULARIZERS, tiny_images, tiny_trainer
from topk_plugin.engine.diagnostics import Diagnostics, auc
from topk_plugin.engine.methods.method import Fakes
from topk_plugin.engine.run import RunOptions, TrainingRun
from topk_plugin.engine.run_folder import RunFolder
from topk_plugin.engine.trainer import Trainer

METHODS = {"none": {}, "ICR": ICR, "2C": CONTRASTIVE, **REGULARIZERS, **COMPANIONS}
scores = st.lists(st.integers(-3, 3), min_size=1, max_size=12)


@pytest.fixture(autouse=True)
def few_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("topk_plugin.engine.diagnostics.SAMPLES", 16)


@given(scores, scores)
def test_auc_counts_pairs(higher: list[int], lower: list[int]) -> None:
    wins = sum((a > b) + 0.5 * (a == b) for a, b in product(higher, lower))
    found = auc(torch.tensor(higher).float(), torch.tensor(lower).float())
    assert found == pytest.approx(wins / (len(higher) * len(lower)))


def flat(state: Any, path: str = "") -> dict[str, Any]:
    """Every tensor and value of a nested state, by its path."""
    if isinstance(state, dict):
        items: Any = state.items()
    elif isinstance(state, list | tuple):
        items = enumerate(state)
    else:
        return {path: state}
    found: dict[str, Any] = {}
    for name, value in items:
        found |= flat(value, f"{path}/{name}")
    return found


@pytest.mark.parametrize("method", METHODS)
def test_a_training_goes_on_as_if_nobody_had_looked(method: str) -> None:
    changes = METHODS[method], {"LOSS": {"topk_every": 1}}
    looked_at, left_alone = tiny_trainer(*changes), tiny_trainer(*changes)
    diagnostics = Diagnostics(looked_at, tiny_images(), None)
    for _ in range(2):
        before = torch.random.get_rng_state()
        values = diagnostics.measure()
        assert torch.equal(torch.random.get_rng_state(), before)
        looked_at.step()
        left_alone.step()
    ours, theirs = flat(looked_at.state_dict()), flat(left_alone.state_dict())
    assert ours.keys() == theirs.keys()
    for name, value in ours.items():
        same = torch.equal(value, theirs[name]) if isinstance(value, Tensor) else None
        assert same is True or value == theirs[name], name
    assert 0 <= values["diagnostics/auc_real_vs_fake"] <= 1
    assert values["diagnostics/score_spread_fake"] > 0
    assert -1 <= values["diagnostics/gradient_cosine"] <= 1
    assert values["diagnostics/gradient_norm_ratio"] > 0


def after_two_steps(changes: dict) -> Trainer:
    trainer = tiny_trainer(changes)
    for _ in range(2):
        trainer.step()
    return trainer


def by_the_gate(trainer: Trainer, diagnostics: Diagnostics, *, gated: bool) -> Tensor:
    """The generator's gradient as the training itself computes it, on the diagnostics' latents."""
    count = trainer.config.OPTIMIZATION.batch_size
    latents, labels = diagnostics._latents[:count], diagnostics._labels[:count]
    trainer.generator.train()
    trainer.critic.train()
    trainer.generator.zero_grad()
    with trainer.terms["top-k"].around_generator_update() if gated else nullcontext():
        images = trainer.generator(latents, labels)
        trainer.objectives.of_generator(Fakes(images, labels), None).backward()
    grads = [p.grad for p in trainer.generator.parameters() if p.grad is not None]
    return torch.cat([grad.flatten().double() for grad in grads])


@pytest.mark.parametrize("normalize", ["kept", "batch"])
def test_the_gradients_are_those_of_the_gate(normalize: str) -> None:
    changes = {"LOSS": {"topk_every": 1, "topk_normalize": normalize}}
    diagnostics = Diagnostics(after_two_steps(changes), tiny_images(), None)
    values = diagnostics.measure()
    full, gated = (
        by_the_gate(after_two_steps(changes), diagnostics, gated=gated) for gated in (False, True)
    )
    cosine = float(nn.functional.cosine_similarity(full, gated, dim=0))
    assert values["diagnostics/gradient_cosine"] == pytest.approx(cosine, abs=1e-4)
    ratio = float(gated.norm() / full.norm())
    assert values["diagnostics/gradient_norm_ratio"] == pytest.approx(ratio, rel=1e-3)
    assert cosine < 0.999


def test_while_all_are_kept_both_gradients_are_one() -> None:
    trainer = tiny_trainer()
    values = Diagnostics(trainer, tiny_images(), None).measure()
    assert values["diagnostics/gradient_cosine"] == pytest.approx(1)
    assert values["diagnostics/gradient_norm_ratio"] == pytest.approx(1)


def test_a_critic_that_only_sees_brightness_is_a_perfect_judge_of_it() -> None:
    trainer = tiny_trainer({"LOSS": {"apply_topk": False, "topk_gamma": "N/A", "topk_nu": "N/A"}})
    diagnostics = Diagnostics(trainer, tiny_images(), None)
    forward = trainer.critic.forward

    def brightness(images: Tensor, labels: Tensor) -> dict[str, Any]:
        out = forward(images, labels)
        return {**out, "adv_output": images.flatten(1).mean(1)}

    diagnostics._real = torch.full_like(diagnostics._real, 255)
    trainer.critic.forward = brightness  # type: ignore[method-assign]
    values = diagnostics.measure()
    assert values["diagnostics/auc_real_vs_fake"] == 1
    assert values["diagnostics/score_spread_real"] == 0
    assert "diagnostics/gradient_cosine" not in values  # there is no gate


def test_a_generator_that_is_not_finite_is_left_out() -> None:
    trainer = tiny_trainer({"LOSS": {"apply_topk": False, "topk_gamma": "N/A", "topk_nu": "N/A"}})
    with torch.no_grad():
        next(trainer.generator.parameters()).fill_(torch.nan)
    values = Diagnostics(trainer, tiny_images(), None).measure()
    assert values.keys() == {"diagnostics/seconds"}


def test_a_run_logs_them_and_says_what_they_cost(tmp_path: Path) -> None:
    options = RunOptions(
        seed=0, print_freq=1, save_freq=6, num_samples=0, command="test", diagnostics=2
    )
    said: list[str] = []
    with RunFolder(tmp_path) as folder:
        trainer = tiny_trainer({"OPTIMIZATION": {"total_steps": 6}})
        given = {"checkpoint": None, "say": said.append}
        TrainingRun(trainer, tiny_images(), folder, None, options, **given).run()
    entries = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    steps = [entry["step"] for entry in entries if "diagnostics/auc_real_vs_fake" in entry]
    assert steps == [2, 4, 6]
    (cost,) = [line for line in said if line.startswith("diagnostics: ")]
    assert "of the training time at every 2 steps" in cost
