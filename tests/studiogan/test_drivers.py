"""What the drivers do around a generator step, and where they go on after a resume."""

import io
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from tests.studiogan.small_worker import CLASSES, Z_DIM, configurations, worker
from topk_plugin import KSchedule, NoEffectWarning, keep_mask
from topk_plugin.gate.progress import Progress
from topk_plugin.studiogan.drivers import GateDriver, OffDriver, SliceDriver, margin
from topk_plugin.studiogan.flags import TopKFlags
from topk_plugin.studiogan.resume import Resumed, progress_of

BATCH = 8
AT_THE_FLOOR = Resumed(0, 0, {"steps": 0, "epochs": 1000})


def flags(**changes: Any) -> TopKFlags:
    read = TopKFlags.of(configurations(**changes))
    assert read is not None
    return read


def gate_driver(gan: Any, resumed: Resumed | None = None, **changes: Any) -> GateDriver:
    read = flags(**changes)
    updates = gan.OPTIMIZATION.g_updates_per_step
    state = None if resumed is None else resumed.state
    return GateDriver(read, read.schedule(10), progress_of(resumed, updates), gan, state)


def slice_driver(gan: Any, resumed: Resumed | None = None, **changes: Any) -> SliceDriver:
    updates = gan.OPTIMIZATION.g_updates_per_step
    schedule = flags(topk_mode="slice", **changes).schedule(10)
    return SliceDriver(schedule, progress_of(resumed, updates))


def sample(seed: int, batch: int = BATCH) -> tuple[Tensor, Tensor]:
    source = torch.Generator().manual_seed(seed)
    z = torch.randn(batch, Z_DIM, dtype=torch.float64, generator=source)
    return z, torch.randint(0, CLASSES, (batch,), generator=source)


def train_generator(gan: Any, seed: int) -> Tensor:
    """StudioGAN's generator step in miniature; returns the last gradient of the generator."""
    for update in range(gan.OPTIMIZATION.g_updates_per_step):
        gan.OPTIMIZATION.g_optimizer.zero_grad()
        z, label = sample(100 * seed + update)
        assert not gan.LOSS.apply_topk
        (-gan.Dis(gan.Gen(z, label), label)["adv_output"].mean()).backward()
        gan.OPTIMIZATION.g_optimizer.step()
    return torch.cat([p.grad.flatten() for p in gan.Gen.parameters()])


def step(driver: Any, gan: Any, seed: int = 0, losses: Any = None) -> Tensor:
    with driver.generator_step(gan, losses):
        return train_generator(gan, seed)


# --- the score of a multi-hinge critic -----------------------------------------------------------


@given(st.integers(1, 6), st.integers(1, 5), st.integers(0, 2**31))
def test_margin_against_a_loop(n: int, classes: int, seed: int) -> None:
    source = torch.Generator().manual_seed(seed)
    logits = torch.randn(n, classes + 1, dtype=torch.float64, generator=source, requires_grad=True)
    label = torch.randint(0, classes + 1, (n,), generator=source)
    found = margin({"adv_output": logits, "label": label})
    for i in range(n):
        others = [logits[i, j].item() for j in range(classes + 1) if j != label[i]]
        assert found[i].item() == logits[i, int(label[i])].item() - max(others)
    assert found.shape == (n,)
    assert not found.requires_grad


def test_margin_raises_what_the_multi_hinge_loss_lowers() -> None:
    """The sample of the higher margin is the one of the lower Crammer-Singer loss."""
    source = torch.Generator().manual_seed(0)
    logits = torch.randn(64, CLASSES + 1, dtype=torch.float64, generator=source)
    label = torch.randint(0, CLASSES, (64,), generator=source)
    own = logits.gather(1, label[:, None])
    wrong = logits.masked_fill(torch.nn.functional.one_hot(label, CLASSES + 1).bool(), -torch.inf)
    hinge = (1 + wrong.amax(1) - own[:, 0]).relu()
    by_margin = hinge[margin({"adv_output": logits, "label": label}).argsort()]
    assert (by_margin.diff() <= 1e-12).all()


# --- the generator step --------------------------------------------------------------------------


def test_the_gradient_is_that_of_the_kept_samples_alone() -> None:
    gan = worker()
    driver = gate_driver(gan, AT_THE_FLOOR)
    gradient = step(driver, gan, seed=3)

    reference = worker()
    z, label = sample(300)
    images = reference.Gen(z, label)
    kept = keep_mask(reference.Dis(images, label)["adv_output"].detach(), 4)
    (-reference.Dis(images[kept], label[kept])["adv_output"].mean()).backward()
    expected = torch.cat([p.grad.flatten() for p in reference.Gen.parameters()])
    assert (gradient - expected).norm() < 1e-12 * expected.norm()
    assert gan.LOSS.apply_topk is True


def test_apply_topk_comes_back_after_an_error() -> None:
    gan = worker(apply_lo=True)
    driver = gate_driver(gan)
    losses = SimpleNamespace(latent_optimise=lambda: None)
    original = losses.latent_optimise

    def fail() -> None:
        assert gan.LOSS.apply_topk is False
        assert losses.latent_optimise is not original
        raise ArithmeticError

    with pytest.raises(ArithmeticError), driver.generator_step(gan, losses):
        fail()
    assert gan.LOSS.apply_topk is True
    assert losses.latent_optimise is original
    step(driver, gan, losses=losses)  # usable again
    assert driver.state_dict()["steps"] == 1


@pytest.mark.parametrize("updates", [1, 3])
def test_updates_are_counted_each(updates: int) -> None:
    gan = worker(g_updates_per_step=updates)
    driver = gate_driver(gan)
    for seed in range(4):
        step(driver, gan, seed)
    assert driver.state_dict()["steps"] == 4 * updates
    assert driver.progress == Progress(4 * updates, 0)


def test_topk_every_counts_updates_and_not_steps() -> None:
    gan = worker(g_updates_per_step=3)
    driver = gate_driver(gan, topk_every=2)
    kept = []
    for seed in range(4):
        step(driver, gan, seed)
        kept.append((driver.progress.of(driver.schedule), int(driver.topk.stats.k)))
    # after 3, 6, 9, 12 updates; the last batch was that of update 2, 5, 8, 11 (from 0)
    schedule = KSchedule(0.9, 0.5)
    assert kept == [(n * 3 // 2, schedule.k((n * 3 - 1) // 2, BATCH)) for n in range(1, 5)]


def test_an_optimizer_step_without_the_critic_is_no_update() -> None:
    """Path length regularisation takes steps of its own, after those with the critic."""
    gan = worker(g_updates_per_step=2)
    driver = gate_driver(gan)
    with driver.generator_step(gan, None):
        for update in range(2):
            gan.OPTIMIZATION.g_optimizer.zero_grad()
            z, label = sample(update)
            (-gan.Dis(gan.Gen(z, label), label)["adv_output"].mean()).backward()
            gan.OPTIMIZATION.g_optimizer.step()
            gan.OPTIMIZATION.g_optimizer.zero_grad()
            gan.Gen(z, label).square().mean().backward()
            gan.OPTIMIZATION.g_optimizer.step()
    assert driver.state_dict()["steps"] == 2


def test_optimizer_steps_outside_are_not_counted() -> None:
    gan = worker()
    driver = gate_driver(gan)
    step(driver, gan)
    gan.OPTIMIZATION.g_optimizer.step()
    assert driver.state_dict()["steps"] == 1


def test_an_update_that_the_scaler_skips_is_counted_with_the_next() -> None:
    gan = worker()
    driver = gate_driver(gan)
    with driver.generator_step(gan, None):  # infinite gradients: no optimizer step
        z, label = sample(0)
        (-gan.Dis(gan.Gen(z, label), label)["adv_output"].mean()).backward()
    assert driver.state_dict()["steps"] == 0
    step(driver, gan, 1)
    assert driver.state_dict()["steps"] == 1


def test_a_step_without_the_critic_warns() -> None:
    gan = worker()
    driver = gate_driver(gan)
    step(driver, gan)
    with (
        pytest.warns(NoEffectWarning, match="the critic was not called"),
        driver.generator_step(gan, None),
    ):
        pass


def latent_optimise(zs: Tensor, label: Tensor, gan: Any) -> Tensor:
    """A step on the latents towards a higher score, with a graph, as LOGAN takes it."""
    zs = zs.clone().requires_grad_()
    scores = gan.Dis(gan.Gen(zs, label), label, eval=True)["adv_output"]
    (direction,) = torch.autograd.grad(scores.sum(), zs, create_graph=True)
    return zs + 0.5 * direction


def test_the_critic_call_of_latent_optimisation_is_left_out() -> None:
    """The latents of all samples move; the loss comes from the kept ones alone."""
    losses = SimpleNamespace(latent_optimise=latent_optimise)

    def generator_loss(gan: Any, keep: Callable[[Tensor], Tensor]) -> Tensor:
        z, label = sample(5)
        images = gan.Gen(losses.latent_optimise(z, label, gan), label)
        return -keep(gan.Dis(images, label)["adv_output"]).mean()

    gan = worker(apply_lo=True)
    driver = gate_driver(gan, AT_THE_FLOOR)
    with driver.generator_step(gan, losses):
        generator_loss(gan, lambda scores: scores).backward()
        gan.OPTIMIZATION.g_optimizer.step()
    found = torch.cat([p.grad.flatten() for p in gan.Gen.parameters()])

    reference = worker(apply_lo=True)
    generator_loss(reference, lambda s: s[keep_mask(s.detach(), 4)]).backward()
    expected = torch.cat([p.grad.flatten() for p in reference.Gen.parameters()])
    assert (found - expected).norm() < 1e-12 * expected.norm()

    # and it matters: with that call gated too the gradient is another one
    gated = worker(apply_lo=False)
    other = gate_driver(gated, AT_THE_FLOOR)
    with other.generator_step(gated, losses):
        generator_loss(gated, lambda scores: scores).backward()
    wrong = torch.cat([p.grad.flatten() for p in gated.Gen.parameters()])
    assert (wrong - expected).norm() > 1e-3 * expected.norm()


def test_the_pictures_are_the_batch_that_was_scored() -> None:
    gan = worker(apply_lo=True)
    driver = gate_driver(gan)
    assert driver.fakes is None
    with driver.generator_step(gan, SimpleNamespace(latent_optimise=latent_optimise)):
        z, label = sample(1)
        latent_optimise(z, label, gan)
        images = gan.Gen(z, label)
        (-gan.Dis(images, label)["adv_output"].mean()).backward()
        gan.Dis(torch.zeros_like(images), label)  # feature matching: real images
    assert torch.equal(driver.fakes, images)
    gan.Dis(gan.Gen(z + 1, label), label)  # a critic call elsewhere
    assert torch.equal(driver.fakes, images)


def test_keep_rates_need_a_conditional_generator() -> None:
    gan = worker()
    driver = gate_driver(gan)
    step(driver, gan)
    assert any(tag.startswith("topk/keep_rate_class/") for tag in driver.monitor.scalars())
    gan = worker()
    gan.MODEL.g_cond_mtd = "W/O"  # whatever the critic is given: the labels are noise
    driver = gate_driver(gan)
    step(driver, gan)
    assert not any(tag.startswith("topk/keep_rate_class/") for tag in driver.monitor.scalars())


def test_the_slice_leaves_the_step_alone_and_counts() -> None:
    gan = worker(g_updates_per_step=2)
    driver = slice_driver(gan, topk_every=4)
    for _ in range(3):
        with driver.generator_step(gan, None):
            assert gan.LOSS.apply_topk is True
    driver.end_epoch()
    assert driver.state_dict() == {"steps": 6, "epochs": 1}
    assert driver.progress.of(driver.schedule) == 1
    assert not gan.Dis._forward_pre_hooks


# --- going on ----------------------------------------------------------------------------------


def saved(driver: Any) -> dict[str, Any]:
    """Its state after a way through a file, as StudioGAN's checkpoint is read."""
    file = io.BytesIO()
    torch.save(driver.state_dict(), file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def make(
    mode: str, resumed: Resumed | None = None, updates: int = 1, **changes: Any
) -> tuple[Any, Any]:
    gan = worker(g_updates_per_step=updates)
    driver = gate_driver if mode == "gate" else slice_driver
    return driver(gan, resumed, **changes), gan


def run(driver: Any, gan: Any, steps: int, epochs: int) -> None:
    for seed in range(steps):
        gan.LOSS.apply_topk = True
        with driver.generator_step(gan, None):
            if isinstance(driver, GateDriver):
                train_generator(gan, seed)
        if seed < epochs:
            driver.end_epoch()


@pytest.mark.parametrize("before", ["gate", "slice"])
@pytest.mark.parametrize("now", ["gate", "slice"])
@pytest.mark.parametrize("every", ["epoch", 2])
def test_progress_goes_on_over_modes_and_batch_sizes(before: str, now: str, every: Any) -> None:
    first, gan = make(before, topk_every=every)
    run(first, gan, steps=5, epochs=3)
    # StudioGAN's own numbers say something else; the state counts
    second, _ = make(now, Resumed(99, 9, saved(first)), topk_every=every)
    assert second.progress == first.progress == Progress(5, 3)
    state = second.state_dict()
    assert (state["steps"], state["epochs"]) == (5, 3)


@pytest.mark.parametrize("mode", ["gate", "slice"])
@pytest.mark.parametrize(("every", "progress"), [("epoch", 30), (10, 200)])
def test_top_k_that_comes_later_starts_where_it_would_have_been(
    mode: str, every: Any, progress: int
) -> None:
    """A checkpoint of StudioGAN's own; -freezeD has none, and steps and epochs of 0."""
    driver, _ = make(mode, Resumed(1000, 30, None), updates=2, topk_every=every)
    assert driver.progress.of(driver.schedule) == progress
    assert {name: driver.state_dict()[name] for name in ("steps", "epochs")} == {
        "steps": 2000,
        "epochs": 30,
    }


def test_the_state_goes_on_through_a_part_without_top_k() -> None:
    gan = worker(g_updates_per_step=2)
    driver = OffDriver(Progress(10, 3), {"steps": 10, "epochs": 3, "generator_state": "kept"})
    for _ in range(4):
        with driver.generator_step(gan, None):
            assert gan.LOSS.apply_topk is True
    driver.end_epoch()
    assert driver.state_dict() == {"steps": 18, "epochs": 4, "generator_state": "kept"}


def test_the_random_policy_goes_on_with_its_own_numbers() -> None:
    def masks(driver: GateDriver, gan: Any, seeds: range) -> list[list[bool]]:
        result = []
        for seed in seeds:
            step(driver, gan, seed)
            result.append(driver.topk.stats.mask.tolist())
        return result

    random = {"topk_policy": "random", "topk_gamma": 0.5, "topk_every": 1}
    first, gan = make("gate", **random)
    start = masks(first, gan, range(3))
    second, fresh = make("gate", Resumed(3, 0, saved(first)), **random)
    whole, other = make("gate", **random)
    assert start + masks(second, fresh, range(3, 6)) == masks(whole, other, range(6))
