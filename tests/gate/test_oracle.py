"""The generator's gradient through the gate against one backward pass a sample, in float64."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tests.gate.gan_zoo import GENERATOR_LOSSES, Batch, generator_loss, make_batch
from topk_plugin import KSchedule, TopK, keep_mask

CONDITIONING = ["none", "classifier", "projection", "contrastive"]


def gate_to(k: int, n: int, **options) -> TopK:
    """A TopK whose k is the given one from the first step on."""
    if k == n:
        return TopK(KSchedule(gamma=0.5, nu=0.5), **options)  # progress 0: the whole batch
    topk = TopK(KSchedule(gamma=1e-6, nu=k / n), **options)
    topk.progress.epochs = 1
    assert topk.schedule.k(topk.progress.of(topk.schedule), n) == k
    return topk


def gated_gradient(batch: Batch, topk: TopK, adversarial: str) -> Tensor:
    handle = topk.attach(batch.critic, score="adv_output", labels=1)
    batch.generator.zero_grad()
    with topk.generator_step():
        out = batch.critic(batch.generator(batch.z, batch.labels), batch.labels)
        generator_loss(adversarial, batch.critic.conditioning, out, batch.labels).backward()
    handle.remove()
    return batch.generator_gradient()


def per_sample_gradient(batch: Batch, mask: Tensor, weight: float, adversarial: str) -> Tensor:
    """Sum over the kept rows of weight * d loss / d theta through that row's image alone."""
    images = batch.generator(batch.z, batch.labels)
    leaf = images.detach().requires_grad_()
    out = batch.critic(leaf, batch.labels)
    loss = generator_loss(adversarial, batch.critic.conditioning, out, batch.labels)
    (at_images,) = torch.autograd.grad(loss, leaf)
    total = [torch.zeros_like(p) for p in batch.generator.parameters()]
    for i in mask.nonzero().flatten().tolist():
        only_i = torch.zeros_like(at_images)
        only_i[i] = weight * at_images[i]
        gradients = torch.autograd.grad(
            images, list(batch.generator.parameters()), only_i, retain_graph=True
        )
        total = [t + g for t, g in zip(total, gradients, strict=True)]
    return torch.cat([t.flatten() for t in total])


def relative_error(ours: Tensor, oracle: Tensor) -> float:
    """Of the global norm: single biases in front of batch norm have true gradient 0."""
    return ((ours - oracle).norm() / oracle.norm().clamp(min=1e-30)).item()


@pytest.mark.parametrize("conditioning", CONDITIONING)
@pytest.mark.parametrize("adversarial", list(GENERATOR_LOSSES))
@pytest.mark.parametrize("normalize", ["kept", "batch"])
@pytest.mark.parametrize("policy", ["top", "bottom", "balanced", "random"])
def test_gradient_is_the_sum_over_kept_rows(
    adversarial: str, conditioning: str, normalize: str, policy: str
) -> None:
    n = 5
    for k in range(1, n + 1):
        batch = make_batch(seed=k, n=n, conditioning=conditioning)
        topk = gate_to(k, n, policy=policy, normalize=normalize)
        ours = gated_gradient(batch, topk, adversarial)
        scores = batch.critic(batch.generator(batch.z, batch.labels), batch.labels)["adv_output"]
        mask = (
            topk.stats.mask
            if policy == "random"
            else keep_mask(scores, k, policy=policy, labels=batch.labels)
        )
        assert mask.sum() == k
        weight = n / k if normalize == "kept" else 1.0
        oracle = per_sample_gradient(batch, mask, weight, adversarial)
        assert relative_error(ours, oracle) < 1e-10


@pytest.mark.filterwarnings("ignore:k can never drop")
@settings(max_examples=60)
@given(
    seed=st.integers(0, 10_000),
    n=st.integers(1, 9),
    data=st.data(),
    adversarial=st.sampled_from(list(GENERATOR_LOSSES)),
    conditioning=st.sampled_from(CONDITIONING),
    normalize=st.sampled_from(["kept", "batch"]),
    batch_norm=st.booleans(),
)
def test_gradient_oracle_over_shapes_ties_and_broken_scores(
    seed: int,
    n: int,
    data: st.DataObject,
    adversarial: str,
    conditioning: str,
    normalize: str,
    batch_norm: bool,
) -> None:
    k = data.draw(st.integers(1, n))
    # The scores that select are drawn apart from the logits, with ties and non-finite values.
    drawn = data.draw(
        st.lists(
            st.sampled_from([0.0, 1.0, 2.0, math.nan, math.inf, -math.inf]), min_size=n, max_size=n
        )
    )
    scores = torch.tensor(drawn, dtype=torch.float64)
    batch = make_batch(seed, n, conditioning, batch_norm=batch_norm)
    topk = gate_to(k, n, normalize=normalize)
    handle = topk.attach(batch.critic, score=lambda out: scores)
    batch.generator.zero_grad()
    with topk.generator_step():
        out = batch.critic(batch.generator(batch.z, batch.labels), batch.labels)
        generator_loss(adversarial, conditioning, out, batch.labels).backward()
    handle.remove()
    mask = keep_mask(scores, k)
    assert topk.stats.nonfinite == sum(not math.isfinite(s) for s in drawn)
    oracle = per_sample_gradient(batch, mask, n / k if normalize == "kept" else 1.0, adversarial)
    ours = batch.generator_gradient()
    assert ((ours - oracle).norm() <= 1e-10 * oracle.norm() + 1e-18).item()


@pytest.mark.parametrize("adversarial", list(GENERATOR_LOSSES))
@pytest.mark.parametrize("conditioning", ["none", "projection"])
def test_kept_normalisation_equals_the_mean_over_the_kept_samples(
    adversarial: str, conditioning: str
) -> None:
    """What a slice of the scores before the loss gives, as StudioGAN does it."""
    n, k = 8, 3
    batch = make_batch(5, n, conditioning)
    ours = gated_gradient(batch, gate_to(k, n), adversarial)
    batch.generator.zero_grad()
    adv = batch.critic(batch.generator(batch.z, batch.labels), batch.labels)["adv_output"]
    GENERATOR_LOSSES[adversarial](torch.topk(adv, k).values).mean().backward()
    assert relative_error(ours, batch.generator_gradient()) < 1e-10


@pytest.mark.parametrize("higher_is_better", [True, False])
@pytest.mark.parametrize("adversarial", list(GENERATOR_LOSSES))
def test_the_best_scored_rows_are_the_ones_with_gradient(
    adversarial: str, higher_is_better: bool
) -> None:
    n, k = 10, 4
    batch = make_batch(11, n)
    topk = gate_to(k, n, higher_is_better=higher_is_better)
    topk.attach(batch.critic, score="adv_output")
    images = batch.generator(batch.z, batch.labels).detach().requires_grad_()
    with topk.generator_step():
        out = batch.critic(images, batch.labels)
        generator_loss(adversarial, "none", out, batch.labels).backward()
    with_gradient = images.grad.flatten(1).abs().sum(1) > 0
    order = out["adv_output"].argsort(descending=higher_is_better)
    assert sorted(with_gradient.nonzero().flatten().tolist()) == sorted(order[:k].tolist())
    # kept scores lie on the right side of dropped ones, by the plain definition
    scores = out["adv_output"].detach()
    if higher_is_better:
        assert scores[with_gradient].min() > scores[~with_gradient].max()
    else:
        assert scores[with_gradient].max() < scores[~with_gradient].min()


@pytest.mark.parametrize("conditioning", CONDITIONING)
def test_dropped_images_get_an_exact_zero_even_from_a_broken_loss(conditioning: str) -> None:
    n, k = 6, 3
    batch = make_batch(2, n, conditioning)
    scores = batch.critic(batch.generator(batch.z, batch.labels), batch.labels)["adv_output"]
    dropped = ~keep_mask(scores.detach(), k)
    for broken_factor in (torch.inf, torch.nan):

        def image_gradient(broken_factor: float = broken_factor) -> Tensor:
            images = batch.generator(batch.z, batch.labels).detach().requires_grad_()
            out = batch.critic(images, batch.labels)
            loss = generator_loss("hinge", conditioning, out, batch.labels)
            broken = torch.where(dropped, broken_factor, 1.0) * out["adv_output"]
            (loss + broken.sum()).backward()
            return images.grad

        assert not torch.isfinite(image_gradient()[dropped]).any(dim=(1, 2, 3)).all()
        topk = gate_to(k, n)
        handle = topk.attach(batch.critic, score="adv_output")
        with topk.generator_step():
            gated = image_gradient()
        handle.remove()
        assert torch.equal(gated[dropped], torch.zeros_like(gated[dropped]))
        assert torch.isfinite(gated[~dropped]).all()
        assert (gated[~dropped].flatten(1).abs().sum(1) > 0).all()


def test_conditional_terms_alone_would_leak_through_a_slice() -> None:
    """The reason for a gate: a slice of the scores leaves the class term on every sample."""
    n, k = 8, 3
    batch = make_batch(3, n, "contrastive")
    images = batch.generator(batch.z, batch.labels).detach().requires_grad_()
    out = batch.critic(images, batch.labels)
    sliced = {**out, "adv_output": torch.topk(out["adv_output"], k).values}
    generator_loss("hinge", "contrastive", sliced, batch.labels).backward()
    dropped = ~keep_mask(out["adv_output"].detach(), k)
    assert (images.grad[dropped].flatten(1).abs().sum(1) > 0).all()
