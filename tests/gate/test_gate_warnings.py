"""A loop in which top-k does the wrong thing is told so, and a right one is not."""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import topk_plugin.gate.effect_check as effect_check
from topk_plugin import (
    CriticUpdateWarning,
    KSchedule,
    NoEffectWarning,
    TopK,
    WrongSignWarning,
    keep_mask,
)

LOSSES = {
    "wasserstein": lambda s: -s.mean(),
    "non-saturating": lambda s: F.softplus(-s).mean(),
    "least squares": lambda s: (s - 4).square().mean() / 2,
    "relativistic": lambda s: F.softplus(-(s - s.flip(0).detach() - 1)).mean(),
}
PLACES = {
    "tensor": (lambda s: s, None),
    "mapping": (lambda s: {"adv": s, "h": s}, "adv"),
    "patches": (lambda s: s[:, None, None, None] + torch.zeros(1, 1, 2, 2), None),
    "scales": (lambda s: [s[:, None], 2 * s[:, None]], None),
    "callable": (lambda s: {"map": s[:, None] * torch.ones(1, 5)}, lambda o: o["map"].mean(1)),
}


class Critic(nn.Module):
    def __init__(self, output=lambda s: s) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.linear, self.output = nn.Linear(3, 1), output

    def forward(self, x: Tensor) -> object:
        return self.output(self.linear(x)[:, 0])


def scores_in(output: object) -> Tensor:
    if isinstance(output, dict):
        output = next(iter(output.values()))
    parts = output if isinstance(output, list) else [output]
    return sum(part.flatten(1).mean(1) if part.dim() > 1 else part for part in parts)


def fakes(rows: int = 8) -> Tensor:
    return torch.randn(rows, 3, requires_grad=True) * 1.0


@contextmanager
def no_warning() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def run(topk: TopK, critic: Critic, loss, steps: int = 16) -> None:
    for _ in range(steps):
        with topk.generator_step():
            loss(scores_in(critic(fakes()))).backward()
        topk.end_step()


# --- the sign ----------------------------------------------------------------------------------


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("loss", LOSSES)
def test_a_wrong_sign_is_warned_about_and_a_right_one_is_not(loss: str, place: str) -> None:
    output, score = PLACES[place]
    for pushed_up, higher_is_better in ((True, True), (False, False), (True, False), (False, True)):
        critic = Critic(output)
        topk = TopK(KSchedule(0.5, 0.5), higher_is_better=higher_is_better)
        topk.attach(critic, score=score)
        sign = 1.0 if pushed_up else -1.0

        def signed(scores: Tensor, sign: float = sign) -> Tensor:
            return LOSSES[loss](sign * scores)

        if pushed_up == higher_is_better:
            with no_warning():
                run(topk, critic, signed)
        else:
            with pytest.warns(WrongSignWarning, match=f"higher_is_better={pushed_up}") as caught:
                run(topk, critic, signed, 40)
            assert len(caught) == 1


def test_the_explicit_form_sees_the_sign_too() -> None:
    topk, critic = TopK(KSchedule(0.5, 0.5)), Critic()

    def steps() -> None:
        for _ in range(16):
            with topk.generator_step() as step:
                scores = critic(step.gate(fakes()))
                step.select(scores)
                scores.mean().backward()
            topk.end_step()

    with pytest.warns(WrongSignWarning):
        steps()


def test_a_loss_that_pushes_both_ways_is_not_accused() -> None:
    topk, critic = TopK(KSchedule(0.5, 0.5)), Critic()
    topk.attach(critic)
    signs = iter([1.0, -1.0] * 8)
    with no_warning():
        run(topk, critic, lambda s: next(signs) * s.mean())


@pytest.mark.parametrize("pushed_up", [True, False])
def test_auto_is_decided_once_logged_and_kept(
    pushed_up: bool, caplog: pytest.LogCaptureFixture
) -> None:
    topk, critic = TopK(KSchedule(0.5, 0.5), higher_is_better="auto"), Critic()
    handle = topk.attach(critic)
    sign = -1.0 if pushed_up else 1.0
    assert topk.higher_is_better == "auto"
    with caplog.at_level(logging.INFO, "topk_plugin"):
        run(topk, critic, lambda s: sign * s.mean())
    assert topk.higher_is_better is pushed_up
    assert [record.args[-1] for record in caplog.records] == [pushed_up]
    handle.remove()
    resumed = TopK(KSchedule(0.5, 0.5), higher_is_better="auto")
    resumed.load_state_dict(topk.state_dict())
    assert resumed.higher_is_better is pushed_up
    resumed.progress.epochs = 1
    resumed.attach(critic)
    images = fakes()
    run(resumed, critic, lambda s: sign * s.mean(), 1)
    with resumed.generator_step():
        scores = critic(images)
    assert resumed.stats.mask.tolist() == keep_mask(scores if pushed_up else -scores, 4).tolist()


def test_auto_that_is_undecided_refuses_to_drop() -> None:
    topk, critic = TopK(KSchedule(0.5, 0.5), higher_is_better="auto"), Critic()
    topk.attach(critic)
    signs = iter([1.0, -1.0] * 2)
    run(topk, critic, lambda s: next(signs) * s.mean(), 4)
    topk.end_epoch()
    with pytest.raises(RuntimeError, match="'auto' is undecided"), topk.generator_step():
        critic(fakes())


def test_auto_of_a_short_epoch_is_decided_when_it_is_needed() -> None:
    topk, critic = TopK(KSchedule(0.5, 0.5), higher_is_better="auto"), Critic()
    topk.attach(critic)
    run(topk, critic, lambda s: s.mean(), 2)
    topk.end_epoch()
    run(topk, critic, lambda s: s.mean(), 1)
    assert topk.higher_is_better is False


# --- rows that the loss reaches -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("score_of_reals", "message"),
    [
        (100, "reaches 0 of the 24 rows that top-k kept and 24 of the 24 that it dropped"),
        (-100, "reaches 24 of the 24 rows that top-k kept and 0 of the 24 that it dropped"),
    ],
)
def test_reals_in_the_fakes_call_are_noticed_by_the_rows_without_gradient(
    score_of_reals: float, message: str
) -> None:
    topk, critic = TopK(KSchedule(0.5, 0.5)), Critic()
    topk.progress.epochs = 1
    topk.attach(critic)
    weight = critic.linear.weight.detach()
    real = score_of_reals * weight / weight.square().sum() + 0.01 * torch.randn(8, 3)
    for _ in range(3):
        with topk.generator_step():
            (-critic(torch.cat([fakes(), real]))[:8]).mean().backward()
        topk.end_step()
    with pytest.warns(NoEffectWarning, match=message):
        topk.end_epoch()


def test_a_loss_that_is_not_switched_on_yet_is_noticed_early() -> None:
    topk, critic = TopK(KSchedule(0.5, 0.5)), Critic()
    topk.attach(critic)
    with pytest.warns(NoEffectWarning, match="does not depend on the critic yet") as caught:
        run(topk, critic, lambda s: 0.0 * s.mean(), 16)
    assert len(caught) == 1


def test_nan_gradients_are_gradients_and_a_few_dead_rows_are_normal() -> None:
    topk, critic = TopK(KSchedule(0.5, 0.5)), Critic()
    topk.attach(critic)
    alive = torch.tensor([0.0] + [1.0] * 7)
    with no_warning():
        run(topk, critic, lambda s: -(alive * s).mean(), 8)
        run(topk, critic, lambda s: torch.nan * s.mean(), 8)
        topk.end_epoch()


# --- progress -----------------------------------------------------------------------------------


def test_warm_up_does_not_count_unless_asked() -> None:
    for count_warmup in (False, True):
        topk = TopK(KSchedule(0.5, 0.5), count_warmup=count_warmup)
        critic = Critic()
        topk.attach(critic)
        with pytest.warns(NoEffectWarning):
            topk.end_step()
        with pytest.warns(NoEffectWarning):
            topk.end_epoch()
        warm_up = 1 if count_warmup else 0
        assert (topk.progress.steps, topk.progress.epochs) == (warm_up, warm_up)
        run(topk, critic, lambda s: -s.mean(), 1)
        topk.end_epoch()
        with pytest.warns(NoEffectWarning):
            topk.end_epoch()  # after the first gated step every epoch counts
        assert (topk.progress.steps, topk.progress.epochs) == (warm_up + 1, warm_up + 2)


@pytest.mark.parametrize("every", ["epoch", 2])
def test_a_loop_that_never_ends_a_step_or_epoch_is_told(
    every, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(effect_check, "_BLOCKS_WITHOUT_A_STEP", 20)
    monkeypatch.setattr(effect_check, "_BLOCKS_WITHOUT_AN_EPOCH", 20)
    monkeypatch.setattr(effect_check, "_BLOCKS_WITHOUT_AN_EPOCH_BUT_STEPS", 40)

    def blocks(topk: TopK, count: int, *, end_steps: bool) -> None:
        for _ in range(count):
            with topk.generator_step():
                critic(fakes()).mean().neg().backward()
            if end_steps:
                topk.end_step()

    critic = Critic()
    topk = TopK(KSchedule(0.5, 0.5, every))
    handle = topk.attach(critic)
    what = "end_epoch" if every == "epoch" else "end_step"
    with no_warning():
        blocks(topk, 20, end_steps=False)
    with pytest.warns(NoEffectWarning, match=f"has not moved in 20 .* call {what}"):
        blocks(topk, 1, end_steps=False)
    with no_warning():  # once
        blocks(topk, 30, end_steps=False)
    handle.remove()
    right = TopK(KSchedule(0.5, 0.5, every))
    right.attach(critic)
    with no_warning():
        for _ in range(3):
            blocks(right, 39, end_steps=True)
            right.end_epoch()


# --- the critic's own update --------------------------------------------------------------------


def test_a_gradient_penalty_inside_the_block_is_noticed() -> None:
    topk, critic = TopK(KSchedule(0.5, 0.5)), Critic()
    topk.attach(critic)
    between = torch.randn(8, 3, requires_grad=True)
    with topk.generator_step():
        scores = critic(between).sum()
        with pytest.warns(CriticUpdateWarning, match="gradient penalty"):
            torch.autograd.grad(scores, between, create_graph=True)


def test_reals_that_require_grad_pass_beside_generated_samples() -> None:
    """They are leaves; the generator's samples have a generator behind them."""
    topk, critic = TopK(KSchedule(0.5, 0.5)), Critic()
    topk.progress.epochs = 1
    topk.attach(critic)
    real = torch.randn(8, 3, requires_grad=True)
    with no_warning(), topk.generator_step():
        loss = -critic(fakes()).mean()
        mask = topk.stats.mask
        (slope,) = torch.autograd.grad(critic(real).sum(), real, create_graph=True)
        (loss + slope.square().sum()).backward()
    assert topk.stats.mask is mask
    assert (slope != 0).all()
