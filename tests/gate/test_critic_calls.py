"""What critics are, and what they are called with."""

import threading

import pytest
import torch
from torch import Tensor, nn

from topk_plugin import KSchedule, NoEffectWarning, TopK, keep_mask


def at_half(**options) -> TopK:
    topk = TopK(KSchedule(0.5, 0.5), **options)
    topk.progress.epochs = 1
    return topk


class Stubborn(Tensor):
    """Like BigGAN's latents: a class of tensors with a ``to`` of its own, which breaks."""

    def to(self, *args: object, **kwargs: object) -> Tensor:
        raise AssertionError("a tensor's class of somebody else's was used inside")


@pytest.mark.parametrize("by_hand", [False, True])
def test_a_subclass_of_tensor_does_not_reach_the_scores(by_hand: bool) -> None:
    topk, critic = at_half(), nn.Linear(3, 1)
    leaf = torch.randn(4, 3, requires_grad=True)
    images = (leaf * 1.0).as_subclass(Stubborn)
    if not by_hand:
        topk.attach(critic)
    with topk.generator_step() as step:
        scores = critic(step.gate(images) if by_hand else images)
        if by_hand:
            step.select(scores)
        scores.mean().backward()
    stats = topk.stats
    assert {type(stats.scores), type(stats.mask), type(stats.k)} == {Tensor}
    assert (leaf.grad != 0).any(1).tolist() == keep_mask(
        scores[:, 0].as_subclass(Tensor), 2
    ).tolist()


def test_calls_in_threads_keep_their_own_selections() -> None:
    """Replicas of DataParallel; here one critic waits until the other is inside of its call."""
    inside = threading.Barrier(2)

    class Slow(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            inside.wait(10)  # both inputs are gated before either score is known
            return x.sum(1)

    topk, critic = at_half(), Slow()
    topk.attach(critic)
    chunks = [torch.randn(n, 3, requires_grad=True) for n in (4, 6)]
    with topk.generator_step():

        def call(x: Tensor) -> None:
            with torch.enable_grad():
                critic(x).mean().backward()

        threads = [threading.Thread(target=call, args=(x,)) for x in chunks]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    for x in chunks:
        expected = keep_mask(x.detach().sum(1), len(x) // 2)
        assert (x.grad != 0).any(1).tolist() == expected.tolist()


@pytest.mark.parametrize("form", ["column", "one-hot", "one-hot of floats"])
def test_labels_of_the_critic_may_have_any_usual_form(form: str) -> None:
    class Conditional(nn.Module):
        def forward(self, x: Tensor, labels: Tensor) -> Tensor:
            return x.sum(1)

    classes = torch.tensor([0, 1, 2, 2])
    one_hot = nn.functional.one_hot(classes)
    labels = {"column": classes[:, None], "one-hot": one_hot}.get(form, one_hot.float())
    topk, critic = at_half(policy="balanced"), Conditional()
    topk.attach(critic, labels=1)
    images = torch.randn(4, 3, requires_grad=True)
    with topk.generator_step():
        critic(images, labels)
    assert topk.stats.labels.tolist() == classes.tolist()


def test_what_has_no_hooks_is_refused_and_nothing_is_left_behind() -> None:
    topk, linear = at_half(), nn.Linear(3, 1)
    with pytest.raises(TypeError, match=r"not a function.* use step.gate"):
        topk.attach(lambda x: linear(x))
    scripted = torch.jit.trace(linear, torch.zeros(1, 3))
    with pytest.raises(TypeError, match=r"attach to nn\.Sequential"):
        topk.attach(scripted)
    wrapped = nn.Sequential(scripted)
    topk.attach(wrapped)  # neither refusal has attached it
    images = torch.randn(4, 3, requires_grad=True)
    with topk.generator_step():
        wrapped(images).mean().backward()
    assert (images.grad != 0).any(1).sum() == 2


def test_an_autoencoder_critic_of_grey_images_is_refused() -> None:
    topk, critic = at_half(), nn.Conv2d(1, 1, 3, padding=1)
    topk.attach(critic)
    with pytest.raises(ValueError, match="very shape of the samples"), topk.generator_step():
        critic(torch.randn(4, 1, 8, 8, requires_grad=True))


def test_a_call_past_the_hooks_is_named() -> None:
    topk, critic = at_half(), nn.Linear(3, 1)
    topk.attach(critic)
    with topk.generator_step():
        critic.forward(torch.randn(4, 3, requires_grad=True)).mean().backward()
    with pytest.warns(NoEffectWarning, match=r"can't see critic.forward\(...\)"):
        topk.end_step()
