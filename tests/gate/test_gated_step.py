"""The explicit form, where hooks on one critic can't see what belongs together."""

import pytest
import torch
from torch import Tensor, nn

from topk_plugin import KSchedule, NoEffectWarning, TopK, keep_mask


def at_half(**options) -> TopK:
    topk = TopK(KSchedule(0.5, 0.5), **options)
    topk.progress.epochs = 1
    return topk


def generated(rows: int = 8, features: int = 3) -> tuple[Tensor, Tensor]:
    """Samples of a generator, and the leaf that takes their gradient."""
    leaf = torch.randn(rows, features, requires_grad=True)
    return leaf * 1.0, leaf


def rows_with_gradient(leaf: Tensor) -> list[bool]:
    return (leaf.grad != 0).flatten(1).any(1).tolist()


def critic(features: int = 3) -> nn.Module:
    torch.manual_seed(0)
    return nn.Linear(features, 1)


def test_fakes_and_reals_in_one_call() -> None:
    """The reals score higher; by hooks they would take every seat."""
    topk, judge = at_half(), critic()
    fake, leaf = generated()
    real = 100 * judge.weight.detach() + torch.randn(8, 3)
    with topk.generator_step() as step:
        out = judge(torch.cat([step.gate(fake), real]))[:, 0]
        mask = step.select(out[:8])
        (-out[:8]).mean().backward()
    assert mask.tolist() == keep_mask(out[:8], 4).tolist() == rows_with_gradient(leaf)


def test_several_critics_and_views_share_one_selection() -> None:
    topk = at_half()
    first, second = critic(), nn.Linear(6, 1)
    fake, leaf = generated()
    with topk.generator_step() as step:
        one = first(step.gate(fake))
        two = second(step.gate(torch.cat([fake, fake.flip(1)], 1)))
        mask = step.select([one, two])
        (-(one + two)).mean().backward()
    assert mask.tolist() == keep_mask((one + two)[:, 0], 4).tolist() == rows_with_gradient(leaf)


def test_a_score_that_needs_the_input() -> None:
    """BEGAN's critic is an autoencoder: the lower |D(x) - x|, the better."""
    topk, autoencoder = at_half(higher_is_better=False), nn.Linear(3, 3)
    fake, leaf = generated()
    with topk.generator_step() as step:
        gated = step.gate(fake)
        error = (autoencoder(gated) - gated).abs().mean(1)
        step.select(error)
        error.mean().backward()
    assert rows_with_gradient(leaf) == keep_mask(-error, 4).tolist()


def test_packs_are_kept_whole() -> None:
    """PacGAN: one score for two samples."""
    topk, judge = at_half(), critic(6)
    fake, leaf = generated()
    with topk.generator_step() as step:
        scores = judge(step.gate(fake.view(4, 6)))
        mask = step.select(scores)
        (-scores).mean().backward()
    assert mask.tolist() == keep_mask(scores[:, 0], 2).tolist()
    assert rows_with_gradient(leaf) == mask.repeat_interleave(2).tolist()


def test_padded_sequences_are_scored_by_their_own_length() -> None:
    topk, judge = at_half(), nn.Conv1d(1, 1, 3, padding=1)
    leaf = torch.randn(4, 1, 10, requires_grad=True)
    lengths = torch.tensor([10, 4, 7, 2])
    inside = torch.arange(10) < lengths[:, None]
    with topk.generator_step() as step:
        per_frame = judge(step.gate(leaf * 1.0))[:, 0]
        scores = (per_frame * inside).sum(1) / lengths
        step.select(scores)
        (-scores).mean().backward()
    assert rows_with_gradient(leaf) == keep_mask(scores, 2).tolist()


def test_weights_are_those_of_the_hooks() -> None:
    judge = critic()
    gradients = []
    for by_hand in (True, False):
        topk = at_half()
        torch.manual_seed(1)
        fake, leaf = generated()
        handle = None if by_hand else topk.attach(judge)
        with topk.generator_step() as step:
            scores = judge(step.gate(fake) if by_hand else fake)
            if by_hand:
                step.select(scores)
            (-scores).mean().backward()
        if handle is not None:
            handle.remove()
        gradients.append(leaf.grad)
    assert torch.equal(*gradients)


def test_accumulated_batches_are_selected_one_after_the_other() -> None:
    topk, judge = at_half(), critic()
    batches = [generated() for _ in range(3)]
    with topk.generator_step() as step:
        for fake, _ in batches:
            scores = judge(step.gate(fake))
            step.select(scores)
            (-scores).mean().backward()
    for fake, leaf in batches:
        assert rows_with_gradient(leaf) == keep_mask(judge(fake)[:, 0], 4).tolist()


@pytest.mark.parametrize("form", [[0, 1, 2, 2], [[0], [1], [2], [2]], "one-hot"])
def test_labels_may_have_any_usual_form(form) -> None:
    labels = torch.tensor([0, 1, 2, 2]) if form == "one-hot" else torch.tensor(form)
    if form == "one-hot":
        labels = nn.functional.one_hot(labels).float()
    topk, judge = at_half(policy="balanced"), critic()
    fake, _ = generated(4)
    with topk.generator_step() as step:
        scores = judge(step.gate(fake))
        step.select(scores, labels)
    assert topk.stats.labels.tolist() == [0, 1, 2, 2]


def test_misuse_is_named() -> None:
    topk, judge = at_half(), critic()
    fake, _ = generated()
    with topk.generator_step() as step:
        with pytest.raises(RuntimeError, match="nothing to select from"):
            step.select(judge(fake))
        gated = step.gate(fake)
        with pytest.raises(ValueError, match="given 4 rows after 8"):
            step.gate(fake[:4])
        with pytest.raises(ValueError, match="pack of 2 samples"):
            step.select(judge(gated)[::2])
        step.select(judge(gated))
        with pytest.raises(RuntimeError, match="give a list"):
            step.select(judge(gated))
    with pytest.raises(RuntimeError, match="belongs inside"):
        step.gate(fake)
    with pytest.raises(RuntimeError, match=r"step.select\(\) was not"), topk.generator_step() as s:
        s.gate(fake)
    with (
        pytest.raises(RuntimeError, match="before their scores were known"),
        topk.generator_step() as s,
    ):
        judge(s.gate(fake)).mean().backward()
    balanced = at_half(policy="balanced")
    with pytest.raises(ValueError, match=r"needs step\.select"), balanced.generator_step() as s:
        s.select(judge(s.gate(fake)))


def test_hand_and_hooks_never_gate_the_same_samples() -> None:
    topk, judge = at_half(), critic()
    topk.attach(judge)
    fake, leaf = generated()
    with topk.generator_step() as step:
        scores = judge(step.gate(fake))  # the hooks leave this step alone
        step.select(scores)
        (-scores).mean().backward()
    assert (leaf.grad[rows_with_gradient(leaf)]).unique(dim=0).shape[0] == 1
    weight = leaf.grad.abs().max() / (judge.weight.detach().abs().max() / 8)
    assert weight == pytest.approx(2.0)
    with topk.generator_step() as step:
        judge(generated()[0])
        with pytest.raises(RuntimeError, match="two gates would weight"):
            step.gate(fake)


def test_samples_without_gradient_pass_and_the_step_warns() -> None:
    topk, judge = at_half(), critic()
    with topk.generator_step() as step:
        step.select(judge(step.gate(torch.randn(8, 3))))
    with pytest.warns(NoEffectWarning, match="step.gate.* do not require grad"):
        topk.end_step()
