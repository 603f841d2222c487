"""Self-Diagnosing GAN: weights by hand, every image's logit in its place, and both phases."""

import io
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from tests.engine.tiny import REGULARIZERS, gate_of, tiny_config, tiny_images, write_image_folder
from topk_plugin.base.errors import UserError
from topk_plugin.engine.data.images import ImageSet
from topk_plugin.engine.data.open import open_images
from topk_plugin.engine.data.reading import Reading
from topk_plugin.engine.data.stored import StoredImages
from topk_plugin.engine.methods.self_diagnosing import (
    RunningLogits,
    draws,
    logits_of,
    sampling_weights,
    snapshot_steps,
    window,
    with_class_shares,
)
from topk_plugin.engine.plan import describe_plan
from topk_plugin.engine.trainer import Trainer

CPU = torch.device("cpu")
# logits after steps 1 and 2, weights from the end of step 3 on
ON = {
    "DATA": {"apply_diagan": True, "diagan_from": 0.5, "diagan_window": 0.34},
    "LOSS": {"adv_loss": "vanilla", "topk_every": 1},
}
SNAPSHOTS = torch.tensor([[1.0, -2.0, 0.5], [2.0, -1.0, 0.5], [3.0, -3.0, 0.5]])


@pytest.mark.parametrize(
    ("spread", "weights", "shares"),
    [
        (0.3, [0.5, 0.01, 0.5], [0.495, 0.0099, 0.495]),
        (5.0, [7.0, 3.0, 0.5], [0.6667, 0.2857, 0.0476]),
    ],
)
def test_three_images_by_hand(spread: float, weights: list[float], shares: list[float]) -> None:
    logits = RunningLogits(3, CPU)
    for snapshot in SNAPSHOTS:
        logits.add(snapshot)
    found = sampling_weights(logits.mean, logits.std, spread)
    assert found.tolist() == pytest.approx(weights)
    assert (found / found.sum()).tolist() == pytest.approx(shares, abs=1e-4)


@given(st.integers(2, 12), st.integers(1, 9), st.integers(0, 2**31))
def test_the_running_moments_are_those_of_all_snapshots(
    snapshots: int, images: int, seed: int
) -> None:
    values = 100 + torch.randn(
        snapshots, images, generator=torch.Generator().manual_seed(seed), dtype=torch.float64
    )
    logits = RunningLogits(images, CPU)
    for row in values:
        logits.add(row)
    np.testing.assert_allclose(logits.mean, values.numpy().mean(0))
    np.testing.assert_allclose(logits.std, values.numpy().std(0, ddof=1), atol=1e-9)


def test_draws_are_in_proportion() -> None:
    weights = torch.tensor([0.5, 0.01, 1.0, 0.25])
    found = draws(weights, 100_000, torch.Generator().manual_seed(0)).bincount(minlength=4)
    expected = 100_000 * weights / weights.sum()
    assert ((found - expected).abs() < 5 * expected.sqrt()).all()


def test_classes_can_keep_their_shares() -> None:
    labels = torch.tensor([0, 0, 1, 1, 1])
    weights = with_class_shares(torch.tensor([0.5, 0.01, 0.1, 0.2, 0.3]), labels)
    torch.testing.assert_close(weights[:2].sum(), torch.tensor(2.0))
    torch.testing.assert_close(weights[2:], torch.tensor([0.5, 1.0, 1.5]))


def test_the_authors_window() -> None:
    config = tiny_config({"DATA": {"apply_diagan": True}, "OPTIMIZATION": {"total_steps": 50_000}})
    assert window(config) == (35_000, 40_000)
    assert sorted(snapshot_steps(config)) == list(range(35_000, 40_000, 100))


# --- in a training -------------------------------------------------------------------------


def trainer_of(
    *changes: dict, images: ImageSet | None = None, precision: str = "fp32", compiled: bool = False
) -> Trainer:
    return Trainer(
        tiny_config(ON, *changes),
        tiny_images() if images is None else images,
        seed=0,
        device=CPU,
        precision=precision,
        compiled=compiled,
    )


def after(steps: int, *changes: dict, **options: Any) -> Trainer:
    trainer = trainer_of(*changes, **options)
    for _ in range(steps):
        trainer.step()
    return trainer


def test_logits_are_those_of_each_image_alone() -> None:
    """Row i is image i's, in evaluation mode, unchanged by its neighbours and by spectral norm."""
    trainer = after(2)
    images = tiny_images()
    before = {name: value.clone() for name, value in trainer.critic.state_dict().items()}
    found = logits_of(trainer.critic, images, batch_size=7, device=CPU)
    assert trainer.critic.training
    assert all(torch.equal(before[n], v) for n, v in trainer.critic.state_dict().items())
    trainer.critic.eval()
    for i in range(len(images)):
        pixels = images.images[i : i + 1].float() / 127.5 - 1
        alone = trainer.critic(pixels, images.labels[i : i + 1])["adv_output"]
        torch.testing.assert_close(found[i : i + 1], alone.detach(), atol=1e-5, rtol=1e-4)


def test_streamed_images_keep_their_places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOPK_PLUGIN_CACHE", str(tmp_path / "cache"))
    folder = write_image_folder(tmp_path / "data")
    runs = []
    for stream in (False, True):
        reading = Reading(stream=stream, num_workers=0)
        images = open_images("Mine", folder, img_size=32, reading=reading)
        assert isinstance(images.images, StoredImages) is stream
        runs.append(after(6, images=images))
    held, streamed = (run.terms["self-diagnosing"] for run in runs)
    assert torch.equal(held._weights, streamed._weights)
    assert all(torch.equal(a, b) for a, b in zip(*map(tensors, runs), strict=True))


def test_phase_two_draws_by_weight_from_the_next_step_on() -> None:
    """In the middle of an epoch, and the labels are still those of the images."""
    trainer = after(3)
    term = trainer.terms["self-diagnosing"]
    weights = term._weights
    assert weights is not None
    assert trainer.stream.state_dict()["images"] > 0
    term._weights = torch.zeros(len(weights)).index_fill_(0, torch.tensor([3, 17]), 1.0)
    trainer.stream.reorder()
    images = tiny_images()
    for _ in range(3):
        for batch in trainer.stream.next_step():
            assert set(batch.indices.tolist()) <= {3, 17}
            assert torch.equal(images.labels[batch.indices], batch.labels)
            pixels = ((batch.images + 1) * 127.5).round().to(torch.uint8)
            own = images.images[batch.indices]
            same = (pixels == own).flatten(1).all(1) | (pixels.flip(3) == own).flatten(1).all(1)
            assert same.all()


def test_before_phase_two_nothing_is_changed() -> None:
    plain = Trainer(tiny_config({"LOSS": ON["LOSS"]}), tiny_images(), seed=0, device=CPU)
    trainer = trainer_of()
    for _ in range(3):
        assert plain.step() == trainer.step()
    networks = zip(networks_of(plain), networks_of(trainer), strict=True)
    assert all(torch.equal(a, b) for a, b in networks)
    assert trainer.judge() is not None
    plain.step()
    trainer.step()
    networks = zip(networks_of(plain), networks_of(trainer), strict=True)
    assert not all(torch.equal(a, b) for a, b in networks)


def networks_of(trainer: Trainer) -> list[Tensor]:
    state = trainer.state_dict()
    return [v.clone() for n in ("generator", "discriminator") for v in state[n].values()]


def test_the_second_critic_begins_as_the_first_and_then_learns_apart() -> None:
    trainer = after(3)
    judge = trainer.judge()
    first = trainer.critic.state_dict()
    assert all(torch.equal(first[name], value) for name, value in judge.state_dict().items())
    term = trainer.terms["self-diagnosing"]
    own, other = term._optimizer.state_dict()["state"], trainer.d_optimizer.state_dict()["state"]
    assert own.keys() == other.keys()
    for index, memory in own.items():
        for name, value in memory.items():
            assert torch.equal(value, other[index][name])
            assert value.data_ptr() != other[index][name].data_ptr()
    updates = float(own[0]["step"])
    losses = trainer.step()
    assert losses["loss/second_critic"] > 0
    assert any((trainer.critic.state_dict()[n] != v).any() for n, v in judge.state_dict().items())
    # two updates a step, of each critic on its own
    assert float(term._optimizer.state_dict()["state"][0]["step"]) == updates + 2
    assert float(trainer.d_optimizer.state_dict()["state"][0]["step"]) == updates + 2


def test_the_second_critics_gradient_is_the_logistic_loss_of_uniform_images() -> None:
    trainer = after(3, {"LOSS": {"adv_loss": "hinge"}, "OPTIMIZATION": {"d_updates_per_step": 1}})
    term, judge = trainer.terms["self-diagnosing"], trainer.judge()
    seen: list[tuple[Tensor, Tensor]] = []
    handle = judge.register_forward_pre_hook(lambda module, args: seen.append(args))
    steps: list[list[Tensor]] = []
    original = term.after_critic_update

    def watch() -> None:
        steps.append([p.grad.clone() for p in judge.parameters()])
        original()

    term.after_critic_update = watch
    before = {name: value.clone() for name, value in judge.state_dict().items()}
    trainer.step()
    handle.remove()
    (real, labels), (fake, fake_labels) = seen
    critic, _ = term._gan.new_critic()
    critic.load_state_dict(before)
    slow = nn.functional.binary_cross_entropy_with_logits
    real_logits = critic(real, labels)["adv_output"]
    fake_logits = critic(fake, fake_labels)["adv_output"]
    loss = slow(real_logits, torch.ones(8)) + slow(fake_logits, torch.zeros(8))
    expected = torch.autograd.grad(loss, list(critic.parameters()))
    for found, wanted in zip(steps[0], expected, strict=True):
        torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-4)
    # its images are a shuffle of all of them, whatever the weights
    indices = [i for _ in range(5) for i in term._uniform.next_step()[0].indices.tolist()]
    assert len(set(indices)) > 20


def tensors(trainer: Trainer) -> list[Tensor]:
    def flat(value: Any) -> list[Tensor]:
        if isinstance(value, Tensor):
            return [value.clone()]
        inner = value.values() if isinstance(value, dict) else value
        return [t for v in inner for t in flat(v)] if isinstance(value, dict | list) else []

    return flat(trainer.state_dict())


@pytest.mark.parametrize(("stop", "d_first"), [(2, True), (3, False), (4, True)])
def test_resuming_is_exact_in_both_phases(stop: int, d_first: bool) -> None:
    change = {"OPTIMIZATION": {"d_first": d_first, "g_updates_per_step": 2}}
    straight, stopped = after(6, change), after(stop, change)
    buffer = io.BytesIO()
    torch.save(stopped.state_dict(), buffer)
    buffer.seek(0)
    resumed = trainer_of(change)
    resumed.load_state_dict(torch.load(buffer, weights_only=True))
    for _ in range(6 - stop):
        resumed.step()
    pairs = zip(tensors(straight), tensors(resumed), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


@pytest.mark.parametrize(
    ("change", "precision"),
    [
        ({}, "fp32"),
        ({}, "bf16"),
        ({"LOSS": {"apply_nice": True, "nice_target": -0.9, "nice_speed": 0.1}}, "bf16"),
        ({"LOSS": {"apply_r2_reg": True, "r2_lambda": 1.0}}, "fp32"),
        ({"LOSS": {"apply_san": True}, **REGULARIZERS["DiffAugment"]}, "fp32"),
        ({"LOSS": {"apply_minibatch": True, "minibatch_kernels": 4}}, "fp32"),
    ],
)
def test_the_gate_lets_k_samples_through_in_phase_two(change: dict, precision: str) -> None:
    trainer = after(4, change, precision=precision)
    assert trainer.judge() is not None
    seen: list[Tensor] = []

    def watch(module: nn.Module, args: tuple, images: Tensor) -> None:
        if images.requires_grad:
            images.register_hook(seen.append)

    trainer.generator.register_forward_hook(watch)
    losses = trainer.step()
    assert all(loss.isfinite() for loss in losses.values())
    mask = gate_of(trainer).stats.mask
    assert mask.sum() == 2
    assert torch.equal((seen[0] != 0).flatten(1).any(1), mask)


def test_without_rejection_there_is_no_second_critic() -> None:
    trainer = after(4, {"DATA": {"diagan_rejection": False, "diagan_keep_classes": True}})
    term = trainer.terms["self-diagnosing"]
    assert trainer.judge() is None
    assert trainer.state_dict()["judge"] is None
    labels = tiny_images().labels
    shares = torch.zeros(4, dtype=torch.float64).scatter_add_(0, labels, term._weights)
    torch.testing.assert_close(shares, torch.full((4,), 10.0, dtype=torch.float64))
    assert trainer.scalars()["diagan/snapshots"] == 2
    assert 0 < trainer.scalars()["diagan/effective_share"] <= 1


def test_a_run_that_missed_the_window_says_so() -> None:
    plain = Trainer(tiny_config({"LOSS": ON["LOSS"]}), tiny_images(), seed=0, device=CPU)
    plain.step()
    plain.step()
    late = trainer_of()
    late.load_state_dict(plain.state_dict())
    with pytest.warns(UserWarning, match="behind its window"):
        late.step()
    assert late.judge() is None


def test_other_images_than_before_are_refused() -> None:
    state = after(2).state_dict()
    with pytest.raises(UserError, match="logits of 40 training images and there are 48 now"):
        trainer_of(images=tiny_images(48)).load_state_dict(state)


def test_windows_that_can_not_be_are_refused_and_hinge_is_noted() -> None:
    with pytest.raises(UserError, match="a window of two steps or more"):
        tiny_config({"DATA": {"apply_diagan": True}, "OPTIMIZATION": {"total_steps": 10}})
    with pytest.raises(UserError, match="a window of two steps or more"):
        tiny_config(ON, {"DATA": {"diagan_window": 0.6}})
    with pytest.raises(UserError, match="has no effect while"):
        tiny_config({"DATA": {"diagan_spread": 1.0}})

    def notes(loss: str) -> str:
        config = tiny_config(ON, {"LOSS": {"adv_loss": loss}})
        return "\n".join(describe_plan(config, images=40, steps_per_epoch=2.0))

    assert "no log density ratios" in notes("hinge")
    assert "no log density ratios" not in notes("vanilla")
    assert "2 times from step 1 on" in notes("vanilla")


def test_two_phases_need_no_warning() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        after(6)
