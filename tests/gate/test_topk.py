"""TopK on a critic: when it gates, what it leaves alone, its schedule and its state."""

import copy
import io
import math
import warnings
from typing import NamedTuple

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import spectral_norm

from tests.gate.gan_zoo import TinyCritic, TinyGenerator, make_batch
from topk_plugin import KSchedule, NoEffectWarning, TopK, keep_mask

HALF = KSchedule(gamma=0.5, nu=0.5)


def linear_critic(features: int = 3) -> nn.Module:
    torch.manual_seed(0)
    return nn.Linear(features, 1)


def at_floor(topk: TopK) -> TopK:
    """Past enough epochs for k to be at its floor, without warnings about an idle gate."""
    topk.progress.epochs, topk.progress.steps = 1000, 1_000_000
    return topk


def image_gradient(topk: TopK, critic: nn.Module, images: Tensor) -> Tensor:
    images = images.detach().requires_grad_()
    with topk.generator_step():
        (-critic(images)).mean().backward()
    return images.grad


# --- when the gate acts ------------------------------------------------------------------------


def test_it_acts_inside_generator_step_only() -> None:
    critic, topk = linear_critic(), at_floor(TopK(HALF))
    topk.attach(critic)
    images = torch.randn(4, 3)
    outside = images.clone().requires_grad_()
    critic(outside).mean().backward()
    assert (outside.grad != 0).any(dim=1).all()
    inside = image_gradient(topk, critic, images)
    assert (inside != 0).any(dim=1).tolist() == keep_mask(critic(images)[:, 0], 2).tolist()


def test_backward_after_the_block_is_still_gated() -> None:
    critic, topk = linear_critic(), at_floor(TopK(HALF))
    topk.attach(critic)
    images = torch.randn(4, 3, requires_grad=True)
    with topk.generator_step():
        loss = critic(images).mean()
    loss.backward()
    assert (images.grad != 0).any(dim=1).sum() == 2


def test_real_images_in_the_generator_step_pass_through_and_are_not_counted() -> None:
    """Feature matching calls the critic on real images there."""
    critic, topk = linear_critic(), at_floor(TopK(HALF))
    topk.attach(critic)
    fakes, reals = torch.randn(4, 3, requires_grad=True), torch.randn(6, 3)
    with topk.generator_step():
        loss = critic(fakes).mean()
        mask = topk.stats.mask
        loss = loss + critic(reals).mean()
        loss.backward()
    assert topk.stats.mask is mask
    assert torch.equal((fakes.grad != 0).any(dim=1), mask)


def test_a_second_call_on_the_same_images_shares_the_selection() -> None:
    """ADC-GAN's conditional term comes from a second critic call on the same fakes."""
    batch = make_batch(0, 8)
    topk = at_floor(TopK(HALF))
    topk.attach(batch.critic, score="adv_output")
    images = batch.generator(batch.z, batch.labels).detach().requires_grad_()
    with topk.generator_step():
        first = batch.critic(images, batch.labels)["adv_output"]
        mask = topk.stats.mask
        # other labels, so scores of its own would select otherwise
        second = batch.critic(images, (batch.labels + 1) % 3)["cls_output"]
        (first.mean() + second.square().mean()).backward()
    assert torch.equal((images.grad != 0).any(dim=(1, 2, 3)), mask)
    assert topk.stats.mask is mask


def test_accumulated_micro_batches_select_each_for_itself() -> None:
    critic, topk = linear_critic(), at_floor(TopK(HALF))
    topk.attach(critic)
    micro = [torch.randn(4, 3, requires_grad=True) for _ in range(3)]
    with topk.generator_step():
        for images in micro:
            (critic(images).mean() / 3).backward()
    for images in micro:
        kept = (images.grad != 0).any(dim=1)
        assert torch.equal(kept, keep_mask(critic(images)[:, 0].detach(), 2))


def test_images_may_be_a_keyword_or_a_list_of_scales() -> None:
    class MultiScale(nn.Module):
        def forward(self, *, scales: list[Tensor]) -> Tensor:
            return sum(s.flatten(1).sum(1) for s in scales)

    critic, topk = MultiScale(), at_floor(TopK(HALF))
    topk.attach(critic, images="scales")
    scales = [torch.randn(4, 3, s, s, requires_grad=True) for s in (2, 4)]
    with topk.generator_step():
        critic(scales=scales).mean().backward()
    for scale in scales:
        assert torch.equal((scale.grad != 0).any(dim=(1, 2, 3)), topk.stats.mask)
    assert topk.stats.mask.sum() == 2


def test_scales_may_be_a_named_tuple() -> None:
    class Pair(NamedTuple):
        small: Tensor
        large: Tensor

    class TwoScales(nn.Module):
        def forward(self, pair: Pair) -> Tensor:
            return pair.small.sum(1) + pair.large.sum(1)

    critic, topk = TwoScales(), at_floor(TopK(HALF))
    topk.attach(critic)
    pair = Pair(torch.randn(4, 3, requires_grad=True), torch.randn(4, 6, requires_grad=True))
    with topk.generator_step():
        critic(pair).mean().backward()
    for scale in pair:
        assert torch.equal((scale.grad != 0).any(dim=1), topk.stats.mask)


@pytest.mark.parametrize(
    "labels", [None, torch.zeros(4, 10), torch.zeros(4, 10, dtype=torch.int64)]
)
def test_labels_that_are_no_classes(labels: Tensor | None) -> None:
    """Statistics do without; the balanced policy can't."""

    class Conditional(nn.Module):
        def forward(self, x: Tensor, y: Tensor | None) -> Tensor:
            return x.sum(1)

    critic, topk = Conditional(), at_floor(TopK(HALF))
    handle = topk.attach(critic, labels=1)
    with topk.generator_step():
        critic(torch.randn(4, 3, requires_grad=True), labels).mean().backward()
    assert topk.stats.labels is None
    handle.remove()
    balanced = at_floor(TopK(HALF, policy="balanced"))
    balanced.attach(critic, labels=1)
    with pytest.raises(ValueError, match="needs integer classes"), balanced.generator_step():
        critic(torch.randn(4, 3, requires_grad=True), labels)


@pytest.mark.filterwarnings("ignore:k can never drop")
def test_batch_of_one() -> None:
    critic, topk = linear_critic(), at_floor(TopK(HALF))
    topk.attach(critic, score=lambda out: out.squeeze())
    assert (image_gradient(topk, critic, torch.randn(1, 3)) != 0).all()
    assert topk.k == 1


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_low_precision_critic(dtype: torch.dtype) -> None:
    critic = linear_critic().to(dtype)
    topk = at_floor(TopK(KSchedule(0.5, 0.25)))
    topk.attach(critic)
    images = torch.ones(8, 3, dtype=dtype)  # all scores tie
    gradient = image_gradient(topk, critic, images)
    assert (gradient != 0).any(dim=1).tolist() == [True, True] + [False] * 6


def test_autocast() -> None:
    critic, topk = linear_critic(), at_floor(TopK(HALF))
    topk.attach(critic)
    images = torch.randn(4, 3, requires_grad=True)
    with topk.generator_step(), torch.autocast("cpu", torch.bfloat16):
        loss = critic(images).mean()
        loss.backward()
    assert (images.grad != 0).any(dim=1).sum() == 2


# --- what it leaves alone ----------------------------------------------------------------------


class BuffersCritic(nn.Module):
    """A critic with every kind of buffer that a forward pass moves."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(
            spectral_norm(nn.Linear(6, 8)), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 1)
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)


def train(topk: TopK | None, steps: int) -> dict[str, Tensor]:
    torch.manual_seed(0)
    generator, critic = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6)), BuffersCritic()
    handle = topk.attach(critic) if topk else None
    d_opt = torch.optim.Adam(critic.parameters(), 1e-2)
    record = {}
    for step in range(steps):
        real, z = torch.randn(8, 6), torch.randn(8, 4)
        d_opt.zero_grad()
        d_loss = critic(generator(z).detach()).relu().mean() - critic(real).mean()
        d_loss.backward()
        record[f"{step} loss"] = d_loss.detach()
        for name, parameter in critic.named_parameters():
            record[f"{step} grad {name}"] = parameter.grad.clone()
        d_opt.step()
        if topk:
            with topk.generator_step():
                (-critic(generator(torch.randn(8, 4)))).mean().backward()
            topk.end_step()
            topk.end_epoch()
        else:
            (-critic(generator(torch.randn(8, 4)))).mean().backward()
        generator.zero_grad()  # the generator stays, so that later critic steps are comparable
    record |= {k: v.clone() for k, v in critic.state_dict().items()}
    if handle:
        handle.remove()
    return record


def test_the_critic_step_is_untouched_bit_for_bit() -> None:
    with_plugin, without = train(TopK(KSchedule(0.5, 0.25)), 6), train(None, 6)
    assert with_plugin.keys() == without.keys()
    assert any("weight_u" in name for name in with_plugin)
    assert any("num_batches_tracked" in name for name in with_plugin)
    for name, value in without.items():
        assert torch.equal(with_plugin[name], value), name


def test_the_critic_is_called_exactly_as_often_as_without() -> None:
    torch.manual_seed(0)
    critic, topk = BuffersCritic(), at_floor(TopK(HALF))
    topk.attach(critic)
    for _ in range(3):
        with topk.generator_step():
            critic(torch.randn(8, 6, requires_grad=True)).mean().backward()
        topk.end_step()
    assert critic.state_dict()["net.1.num_batches_tracked"] == 3


def test_remove_leaves_the_critic_as_it_was() -> None:
    critic = BuffersCritic()
    before = copy.deepcopy(critic)
    handle = TopK(HALF).attach(critic)
    assert critic.state_dict().keys() == before.state_dict().keys()
    handle.remove()
    handle.remove()
    assert not critic._forward_hooks
    assert not critic._forward_pre_hooks
    assert critic.__dict__.keys() == before.__dict__.keys()
    topk = TopK(HALF)
    topk.attach(critic)  # and it may be attached to again


def test_other_hooks_see_what_they_would_see_without_the_plugin() -> None:
    critic, seen = linear_critic(), []
    critic.register_forward_pre_hook(lambda module, args: seen.append(args[0].shape))
    topk = at_floor(TopK(HALF))
    topk.attach(critic)
    image_gradient(topk, critic, torch.randn(4, 3))
    assert seen == [(4, 3)]


def test_the_global_random_generator_is_left_alone() -> None:
    critic, topk = linear_critic(), at_floor(TopK(HALF, policy="random"))
    topk.attach(critic)
    images = torch.randn(4, 3)
    before = torch.random.get_rng_state()
    image_gradient(topk, critic, images)
    assert torch.equal(before, torch.random.get_rng_state())


def test_copies_of_the_critic_are_critics_without_a_gate() -> None:
    critic, topk = linear_critic(), at_floor(TopK(HALF))
    topk.attach(critic)
    copied = copy.deepcopy(critic)
    buffer = io.BytesIO()
    torch.save(critic, buffer)
    buffer.seek(0)
    loaded = torch.load(buffer, weights_only=False)
    images = torch.randn(4, 3)
    for other in (copied, loaded):
        free = images.clone().requires_grad_()
        with topk.generator_step():
            other(free).mean().backward()
        assert (free.grad != 0).any(dim=1).all()
        assert not TopK(HALF).attach(other).remove()
    assert (image_gradient(topk, critic, images) != 0).any(dim=1).sum() == 2


def test_a_failed_call_does_not_lend_its_place_to_another() -> None:
    """Scores of real images must not select among the fakes of a call that failed before."""

    class Fragile(nn.Module):
        def forward(self, x: Tensor, fail: bool = False) -> Tensor:
            if fail:
                raise ArithmeticError
            return x.sum(1)

    critic, topk = Fragile(), at_floor(TopK(HALF))
    topk.attach(critic)
    fakes, reals = torch.randn(4, 3, requires_grad=True), torch.randn(4, 3)
    with topk.generator_step():
        with pytest.raises(ArithmeticError):
            critic(fakes, fail=True)
        critic(reals)
        critic(fakes).mean().backward()
    assert torch.equal((fakes.grad != 0).any(dim=1), keep_mask(fakes.sum(1).detach(), 2))


def is_free(topk: TopK, critic: nn.Module) -> bool:
    """Whether a critic call passes ungated, though its images require grad."""
    images = torch.randn(4, 3, requires_grad=True)
    critic(images).mean().backward()
    kept = (images.grad != 0).any(dim=1).sum()
    assert kept in (2, 4)
    return bool(kept == 4)


def test_a_paused_call_passes_ungated_and_is_not_scored() -> None:
    """Latent optimisation calls the critic on images that require grad, before the real batch."""
    critic, topk = linear_critic(), at_floor(TopK(HALF))
    topk.attach(critic)
    with topk.generator_step():
        with topk.paused():
            assert is_free(topk, critic)
        with pytest.raises(RuntimeError, match="once a batch has passed"):
            _ = topk.stats
        assert not topk.acted
        fakes = torch.randn(4, 3, requires_grad=True)
        loss = critic(fakes).mean()
        mask = topk.stats.mask
        with topk.paused():
            assert is_free(topk, critic)
            loss.backward()  # what was gated before stays so
        assert topk.stats.mask is mask
        assert torch.equal((fakes.grad != 0).any(dim=1), mask)


def test_pauses_nest_and_end_with_their_block() -> None:
    critic, topk = linear_critic(), at_floor(TopK(HALF))
    topk.attach(critic)
    with topk.paused(), topk.generator_step():
        assert is_free(topk, critic)
        with topk.paused():
            assert is_free(topk, critic)
        assert is_free(topk, critic)
    with topk.generator_step():
        with pytest.raises(ArithmeticError), topk.paused():
            raise ArithmeticError
        assert not is_free(topk, critic)


def test_a_step_of_paused_calls_only_has_not_acted() -> None:
    critic, topk = linear_critic(), at_floor(TopK(HALF))
    topk.attach(critic)
    with topk.generator_step(), topk.paused():
        is_free(topk, critic)
    assert not topk.acted
    with pytest.warns(NoEffectWarning, match="did not act"):
        topk.end_step()


def test_acted_says_whether_a_gradient_met_the_gate_since_the_last_step() -> None:
    critic, topk = linear_critic(), at_floor(TopK(HALF))
    topk.attach(critic)
    assert not topk.acted
    with topk.generator_step():
        loss = critic(torch.randn(4, 3, requires_grad=True)).mean()
        assert not topk.acted  # nothing has come back yet
        loss.backward()
        assert topk.acted
    assert topk.acted
    topk.end_epoch()
    assert topk.acted
    topk.end_step()
    assert not topk.acted
    critic(torch.randn(4, 3, requires_grad=True)).mean().backward()
    assert not topk.acted


# --- refusals ----------------------------------------------------------------------------------


def test_attaching_twice_is_refused() -> None:
    critic, topk = linear_critic(), TopK(HALF)
    handle = topk.attach(critic)
    with pytest.raises(RuntimeError, match="attached to a critic already"):
        topk.attach(linear_critic())
    with pytest.raises(RuntimeError, match="has a TopK attached already"):
        TopK(HALF).attach(critic)
    with pytest.raises(RuntimeError, match="inside or around"):
        TopK(HALF).attach(nn.Sequential(critic))
    handle.remove()
    wrapper = nn.Sequential(critic)
    TopK(HALF).attach(wrapper)
    with pytest.raises(RuntimeError, match="inside or around"):
        TopK(HALF).attach(critic)


def test_generator_step_is_refused_when_it_makes_no_sense() -> None:
    topk = TopK(HALF)
    with pytest.raises(RuntimeError, match="attach this TopK"), topk.generator_step():
        pass
    critic = linear_critic()
    handle = topk.attach(critic)
    with topk.generator_step():
        with pytest.raises(RuntimeError, match="nested"), topk.generator_step():
            raise AssertionError("not reached")
        with pytest.raises(RuntimeError, match="inside generator_step"):
            handle.remove()
    at_floor(topk)
    assert (image_gradient(topk, critic, torch.randn(4, 3)) != 0).any(dim=1).sum() == 2


def test_an_error_in_the_critic_leaves_the_plugin_usable() -> None:
    class Failing(nn.Module):
        fail = True

        def forward(self, x: Tensor) -> Tensor:
            if self.fail:
                raise ArithmeticError
            return x.sum(1)

    critic, topk = Failing(), at_floor(TopK(HALF))
    topk.attach(critic)
    with pytest.raises(ArithmeticError), topk.generator_step():
        critic(torch.randn(4, 3, requires_grad=True))
    critic.fail = False
    assert (image_gradient(topk, critic, torch.randn(4, 3)) != 0).any(dim=1).sum() == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"policy": "best"}, "policy must be one of top, bottom, random, balanced"),
        ({"scope": "local"}, "scope must be one of rank, global"),
        ({"normalize": "k"}, "normalize must be one of kept, batch"),
        ({"higher_is_better": 1}, "higher_is_better must be True or False"),
    ],
)
def test_wrong_arguments_are_named(arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TopK(HALF, **arguments)


def test_wrong_attachments_are_named() -> None:
    with pytest.raises(ValueError, match="schedule must be a KSchedule"):
        TopK({"gamma": 0.9})
    with pytest.raises(ValueError, match="labels=POSITION_OR_KEYWORD"):
        TopK(HALF, policy="balanced").attach(linear_critic())
    critic, topk = linear_critic(), TopK(HALF)
    topk.attach(critic, images=1)
    with pytest.raises(ValueError, match="images=1"), topk.generator_step():
        critic(torch.randn(4, 3, requires_grad=True))
    critic, topk = TinyCritic("none"), TopK(HALF)
    topk.attach(critic)
    batch = make_batch(0, 4)
    images = batch.generator(batch.z, batch.labels).float()
    with pytest.raises(ValueError, match="score=KEY"), topk.generator_step():
        critic(images, batch.labels)


# --- warnings of no effect ---------------------------------------------------------------------


@pytest.mark.parametrize("schedule", [KSchedule(1.0, 0.5), KSchedule(0.9, 1.0)])
def test_a_schedule_that_never_drops_warns(schedule: KSchedule) -> None:
    with pytest.warns(NoEffectWarning, match="never drop"):
        TopK(schedule)


def test_a_batch_too_small_for_nu_warns_once() -> None:
    critic, topk = linear_critic(), TopK(KSchedule(0.9, 0.99))
    topk.attach(critic)
    with pytest.warns(NoEffectWarning, match="batch size of 1 "):
        image_gradient(topk, critic, torch.randn(1, 3))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        image_gradient(topk, critic, torch.randn(1, 3))


def test_a_gate_that_never_fires_warns_and_says_why() -> None:
    critic, topk = linear_critic(), TopK(HALF)
    topk.attach(critic)
    with pytest.warns(NoEffectWarning, match="never entered"):
        topk.end_step()
    with topk.generator_step():
        image = torch.randn(4, 3)
    with pytest.warns(NoEffectWarning, match="not called inside"):
        topk.end_step()
    with topk.generator_step():
        critic(image)
    with pytest.warns(NoEffectWarning, match="do not require grad"):
        topk.end_step()
    with topk.generator_step():
        critic(image.requires_grad_())
    with pytest.warns(NoEffectWarning, match="no backward pass reached"):
        topk.end_step()
    with pytest.warns(NoEffectWarning, match="in this epoch"):
        topk.end_epoch()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        image_gradient(topk, critic, image)
        topk.end_step()
        topk.end_epoch()


# --- schedule, statistics, state ---------------------------------------------------------------


@pytest.mark.parametrize("every", ["epoch", 3])
def test_k_follows_the_schedule(every) -> None:
    critic = linear_critic()
    schedule = KSchedule(0.9, 0.4, every)
    topk = TopK(schedule)
    topk.attach(critic)
    for step in range(20):
        gradient = image_gradient(topk, critic, torch.randn(16, 3))
        expected = schedule.k(step // 2 if every == "epoch" else step // 3, 16)
        assert topk.k == expected == (gradient != 0).any(dim=1).sum()
        topk.end_step()
        if step % 2 == 1:
            topk.end_epoch()


def test_k_before_the_first_batch_is_refused() -> None:
    topk = TopK(HALF)
    with pytest.raises(RuntimeError, match="once a batch has passed"):
        _ = topk.k
    with pytest.raises(RuntimeError, match="once a batch has passed"):
        _ = topk.stats


def test_statistics_against_plain_python() -> None:
    scores = [3.0, math.nan, -1.0, 2.0, math.inf, 0.0]
    critic, topk = linear_critic(), at_floor(TopK(HALF))
    topk.attach(critic, score=lambda out: torch.tensor(scores))
    image_gradient(topk, critic, torch.randn(6, 3))
    stats = topk.stats
    assert stats.mask.tolist() == [True, False, False, True, False, True]
    assert stats.k == 3
    assert stats.threshold == 0.0
    assert stats.score_kept_mean.item() == pytest.approx((3 + 2 + 0) / 3)
    assert stats.score_dropped_mean == -1.0
    assert stats.nonfinite == 2
    image_gradient(topk, critic, torch.randn(6, 3))
    assert topk.stats.nonfinite_total == 4
    assert stats.fraction == 0.5


def test_statistics_when_lower_is_better_are_the_critics_own_scores() -> None:
    critic, topk = linear_critic(), at_floor(TopK(HALF, higher_is_better=False))
    topk.attach(critic, score=lambda out: torch.tensor([1.0, 2.0, 3.0, 4.0]))
    image_gradient(topk, critic, torch.randn(4, 3))
    assert topk.stats.scores.tolist() == [1.0, 2.0, 3.0, 4.0]
    assert topk.stats.mask.tolist() == [True, True, False, False]
    assert topk.stats.score_kept_mean == 1.5
    assert topk.stats.threshold == 2.0


def test_state_survives_a_change_of_batch_size() -> None:
    schedule = KSchedule(0.9, 0.3)
    first = TopK(schedule)
    critic = linear_critic()
    handle = first.attach(critic)
    for _ in range(5):
        image_gradient(first, critic, torch.randn(64, 3))
        first.end_step()
        first.end_epoch()
    handle.remove()
    buffer = io.BytesIO()
    torch.save(first.state_dict(), buffer)
    buffer.seek(0)
    second = TopK(schedule)
    second.load_state_dict(torch.load(buffer, weights_only=True))
    second.attach(critic)
    image_gradient(second, critic, torch.randn(10, 3))
    assert second.k == schedule.k(5, 10) == math.floor(0.9**5 * 10)


def test_random_policy_resumes_exactly() -> None:
    images = torch.randn(32, 3)

    def masks(topk: TopK, count: int) -> list[list[bool]]:
        critic = linear_critic()
        handle = topk.attach(critic)
        result = []
        for _ in range(count):
            image_gradient(topk, critic, images)
            result.append(topk.stats.mask.tolist())
        handle.remove()
        return result

    whole = masks(at_floor(TopK(HALF, policy="random", seed=7)), 6)
    first = at_floor(TopK(HALF, policy="random", seed=7))
    start = masks(first, 2)
    resumed = TopK(HALF, policy="random", seed=7)
    resumed.load_state_dict(first.state_dict())
    assert start + masks(resumed, 4) == whole
    assert whole[0] != whole[1]


def test_wrong_state_is_refused() -> None:
    topk = TopK(HALF)
    with pytest.raises(ValueError, match="version 1, not 9"):
        topk.load_state_dict({**topk.state_dict(), "version": 9})
    state = topk.state_dict()
    del state["epochs"]
    with pytest.raises(ValueError, match="lacks epochs"):
        topk.load_state_dict(state)


def test_gradient_scaling_and_accumulation_leave_the_selection_alone() -> None:
    generator = TinyGenerator(batch_norm=True)
    critic, topk = TinyCritic("none"), at_floor(TopK(HALF))
    topk.attach(critic, score="adv_output")
    gradients = []
    for scale in (1.0, 65536.0):
        torch.manual_seed(0)
        generator.zero_grad()
        with topk.generator_step():
            labels = torch.zeros(8, dtype=torch.int64)
            out = critic(generator(torch.randn(8, 5), labels), labels)
            (scale * -out["adv_output"].mean()).backward()
        gradients.append(torch.cat([p.grad.flatten() for p in generator.parameters()]) / scale)
    assert torch.allclose(gradients[0], gradients[1], rtol=1e-4, atol=1e-7)
