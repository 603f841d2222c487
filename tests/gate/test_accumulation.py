"""Selection over the micro-batches of an update, against the same update on one large batch."""

import contextlib
import copy
import math
import warnings
from collections.abc import Callable, Iterator

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.utils import parametrizations, spectral_norm
from torch.utils.checkpoint import checkpoint

from tests.gate.gan_zoo import CLASSES, GENERATOR_LOSSES, Z_DIM
from topk_plugin import (
    GatedStep,
    KSchedule,
    NoEffectWarning,
    ReplayWarning,
    SmallSelectionWarning,
    TopK,
    TopKMonitor,
    keep_mask,
)
from topk_plugin.ops.spectral_norm import BatchedSpectralNorm

NORMS = {"torch": spectral_norm, "parametrization": parametrizations.spectral_norm}


class Networks:
    """A generator and a critic with spectral normalisation and a class input, in float64."""

    def __init__(self, seed: int = 0, norm: str = "torch", *, dropout: float = 0.0) -> None:
        sn = NORMS.get(norm, spectral_norm)
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.generator = nn.Sequential(
                sn(nn.Linear(Z_DIM, 12)), nn.Tanh(), sn(nn.Linear(12, 6))
            ).double()
            self.critic = Critic(sn, dropout).double()
        if norm == "batched":
            BatchedSpectralNorm(self.generator)
            BatchedSpectralNorm(self.critic)

    @property
    def both(self) -> list[nn.Module]:
        return [self.generator, self.critic]

    def gradient(self) -> Tensor:
        gradients = [p.grad for p in self.generator.parameters() if p.grad is not None]
        return torch.cat([g.flatten() for g in gradients])


class Critic(nn.Module):
    def __init__(self, sn: Callable[[nn.Module], nn.Module], dropout: float) -> None:
        super().__init__()
        self.first, self.last = sn(nn.Linear(6, 10)), sn(nn.Linear(10, 1))
        self.project = nn.Embedding(CLASSES, 10)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, labels: Tensor) -> dict[str, Tensor]:
        h = self.dropout(torch.tanh(self.first(x)))
        return {"adv": self.last(h)[:, 0] + (self.project(labels) * h).sum(1), "h": h}


def batch(seed: int, n: int) -> tuple[Tensor, Tensor]:
    random = torch.Generator().manual_seed(seed)
    z = torch.randn(n, Z_DIM, dtype=torch.float64, generator=random)
    return z, torch.randint(0, CLASSES, (n,), generator=random)


def parts(whole: tuple[Tensor, Tensor], sizes: list[int]) -> list[tuple[Tensor, Tensor]]:
    return list(zip(whole[0].split(sizes), whole[1].split(sizes), strict=True))


def at(k: int, n: int, **options) -> TopK:
    """A TopK that keeps k of n."""
    topk = TopK(KSchedule(1e-6, k / n), **options)
    topk.progress.epochs = 1 if k < n else 0
    return topk


def update(
    networks: Networks,
    topk: TopK,
    micro_batches: list[tuple[Tensor, Tensor]],
    loss_of: Callable[[dict[str, Tensor]], Tensor],
    *,
    by_hand: bool = False,
    options: dict | None = None,
) -> None:
    """One update's gradient; micro-batches count by their size, as in one large batch."""
    n = sum(len(z) for z, _ in micro_batches)
    networks.generator.zero_grad()
    handle = None if by_hand else topk.attach(networks.critic, score="adv", labels=1)
    with topk.generator_step() as step:

        def forward(given: tuple[Tensor, Tensor]) -> Tensor:
            z, labels = given
            fake = networks.generator(z)
            out = networks.critic(step.gate(fake) if by_hand else fake, labels)
            if by_hand:
                step.select(out["adv"], labels)
            return loss_of(out) * (len(z) / n)

        for loss in step.accumulate(
            forward, micro_batches, networks=networks.both, **(options or {})
        ):
            loss.backward()
    topk.end_step()
    if handle is not None:
        handle.remove()


def error(ours: Tensor, oracle: Tensor) -> float:
    return ((ours - oracle).norm() / oracle.norm().clamp(min=1e-30)).item()


# --- the large batch -------------------------------------------------------------------------


@pytest.mark.parametrize("norm", [*NORMS, "batched"])
@pytest.mark.parametrize("by_hand", [False, True])
@pytest.mark.parametrize("policy", ["top", "bottom", "random", "balanced"])
def test_gradient_and_buffers_are_those_of_one_large_batch(
    policy: str, by_hand: bool, norm: str
) -> None:
    large, accumulated = Networks(norm=norm), Networks(norm=norm)
    options = {"policy": policy, "accumulation": "effective", "seed": 3}
    one, several = at(5, 12, **options), at(5, 12, **options)
    loss = lambda out: F.softplus(-out["adv"]).mean()  # noqa: E731
    for seed in range(3):  # u and v go on from update to update, the noise too
        whole = batch(seed, 12)
        update(large, one, [whole], loss, by_hand=by_hand)
        update(accumulated, several, parts(whole, [4, 4, 4]), loss, by_hand=by_hand)
        assert error(accumulated.gradient(), large.gradient()) < 1e-10
        assert torch.equal(one.stats.mask, several.stats.mask)
        assert torch.equal(one.stats.labels, several.stats.labels)
        assert one.k == several.k == 5 == int(several.stats.k)
        for ours, theirs in zip(accumulated.both, large.both, strict=True):
            for name, buffer in ours.named_buffers():
                assert error(buffer, theirs.get_buffer(name)) < 1e-12


@settings(max_examples=25)
@given(data=st.data(), seed=st.integers(0, 1000))
def test_any_sizes_losses_ties_and_broken_scores(data: st.DataObject, seed: int) -> None:
    sizes = data.draw(st.lists(st.integers(1, 4), min_size=2, max_size=4))
    n = sum(sizes)
    k = data.draw(st.integers(1, n - 1))
    adversarial = data.draw(st.sampled_from(list(GENERATOR_LOSSES)))
    normalize = data.draw(st.sampled_from(["kept", "batch"]))
    drawn = data.draw(
        st.lists(
            st.sampled_from([0.0, 1.0, 2.0, math.nan, math.inf, -math.inf]), min_size=n, max_size=n
        )
    )
    scores = torch.tensor(drawn, dtype=torch.float64)
    networks, (z, labels) = Networks(seed), batch(seed, n)
    topk = at(k, n, accumulation="effective", normalize=normalize)
    with topk.generator_step() as step:

        def forward(rows: Tensor) -> Tensor:
            out = networks.critic(step.gate(networks.generator(z[rows])), labels[rows])
            step.select(scores[rows])
            return GENERATOR_LOSSES[adversarial](out["adv"]).sum() / n

        rows = torch.arange(n).split(sizes)
        for loss in step.accumulate(forward, rows, networks=networks.both):
            loss.backward()
    ours = networks.gradient()
    # one row at a time: broken scores are never kept while there are others
    mask = keep_mask(scores, k)
    assert torch.equal(topk.stats.mask, mask)
    fresh = Networks(seed)
    adv = fresh.critic(fresh.generator(z), labels)["adv"]
    weight = n / k if normalize == "kept" else 1.0
    (GENERATOR_LOSSES[adversarial](adv)[mask].sum() * weight / n).backward()
    assert error(ours, fresh.gradient()) < 1e-10


def test_a_micro_batch_without_a_kept_sample_gives_no_gradient() -> None:
    networks, topk = Networks(), at(2, 6, accumulation="effective")
    scores = torch.tensor([[0.0, 1.0, 2.0], [7.0, 8.0, 9.0]], dtype=torch.float64)
    z = batch(0, 6)[0].view(2, 3, Z_DIM)
    gradients, masks = [], []
    with topk.generator_step() as step:

        def forward(i: int) -> Tensor:
            fake = step.gate(networks.generator(z[i]))
            masks.append(step.select(scores[i]))
            return fake.sum()

        for loss in step.accumulate(forward, [0, 1], networks=networks.both):
            networks.generator.zero_grad()
            loss.backward()
            gradients.append(networks.gradient())
    assert [m.tolist() for m in masks[2:]] == [[False] * 3, [False, True, True]]
    assert all(m.all() for m in masks[:2])  # not known yet in the first look
    assert not gradients[0].any()
    assert gradients[1].any()


def test_micro_is_what_a_loop_without_accumulate_does() -> None:
    micro_batches = parts(batch(0, 8), [4, 4])
    loss = lambda out: -out["adv"].mean()  # noqa: E731
    networks, topk = Networks(), at(2, 4)
    update(networks, topk, micro_batches, loss)
    plain = Networks()
    other = at(2, 4)
    other.attach(plain.critic, score="adv", labels=1)
    with other.generator_step():
        for z, labels in micro_batches:
            (loss(plain.critic(plain.generator(z), labels)) * 0.5).backward()
    assert torch.equal(networks.gradient(), plain.gradient())
    for ours, theirs in zip(networks.both, plain.both, strict=True):
        assert all(torch.equal(b, theirs.get_buffer(n)) for n, b in ours.named_buffers())


# --- what is done again ----------------------------------------------------------------------


def test_random_numbers_of_both_passes_are_the_same_and_drawn_once() -> None:
    """Dropout draws from torch's stream, an augmentation from one of its own."""

    def train(accumulation: str) -> tuple[list[Tensor], Tensor, int]:
        networks = Networks(dropout=0.5)
        topk = at(4, 8 if accumulation == "effective" else 4, accumulation=accumulation)
        topk.attach(networks.critic, score="adv", labels=1)
        own = torch.Generator().manual_seed(1)
        torch.manual_seed(2)
        seen = []

        def forward(given: tuple[Tensor, Tensor]) -> Tensor:
            fake = networks.generator(given[0])
            noise = torch.randn(fake.shape, generator=own, dtype=fake.dtype)
            out = networks.critic(fake + 0.5 * noise, given[1])
            seen.append(out["adv"].detach())
            return -out["adv"].mean()

        with topk.generator_step() as step:
            micro_batches = parts(batch(0, 8), [4, 4])
            for loss in step.accumulate(
                forward, micro_batches, networks=networks.both, generators=[own]
            ):
                loss.backward()
        return seen, torch.rand(3), own.initial_seed() + int(torch.randint(9, (1,), generator=own))

    looked_and_learned, torchs, own = train("effective")
    learned, torchs_once, own_once = train("micro")
    assert len(looked_and_learned) == 4
    for first, second in zip(looked_and_learned[:2], looked_and_learned[2:], strict=True):
        assert torch.equal(first, second)
    # micro iterates the spectral norm in each pass, so only the first pass is the same
    assert torch.equal(learned[0], looked_and_learned[0])
    assert torch.equal(torchs, torchs_once)
    assert own == own_once


class OwnBatchNorm(nn.Module):
    """As BigGAN-PyTorch's: buffers that torch moves, in a class that torch doesn't know."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("running_mean", torch.zeros(4))
        self.register_buffer("running_var", torch.ones(4))

    def forward(self, x: Tensor) -> Tensor:
        return F.batch_norm(x, self.running_mean, self.running_var, training=True)


@pytest.mark.parametrize("norm", [lambda: nn.BatchNorm1d(4), OwnBatchNorm])
def test_running_statistics_move_once_a_micro_batch(norm: Callable[[], nn.Module]) -> None:
    def statistics(accumulation: str) -> nn.Module:
        torch.manual_seed(0)
        generator = nn.Sequential(nn.Linear(Z_DIM, 4), norm()).double()
        critic = nn.Linear(4, 1).double()
        topk = at(2, 4, accumulation=accumulation)
        topk.attach(critic)
        with topk.generator_step() as step:
            for loss in step.accumulate(
                lambda z: -critic(generator(z)).mean(),
                batch(0, 12)[0].split(4),
                networks=[generator, critic],
            ):
                loss.backward()
        return generator[1]

    micro, effective = statistics("micro"), statistics("effective")
    for name, buffer in effective.named_buffers():
        assert torch.equal(buffer, micro.get_buffer(name))
    assert micro.running_mean.any()


def test_constant_buffers_stay_usable_for_a_backward_pass_after_the_loop() -> None:
    """Restoring a buffer that autograd has saved would end its backward pass."""
    torch.manual_seed(0)
    networks = Networks()
    networks.critic.register_buffer("blur", torch.rand(6, 6, dtype=torch.float64))
    topk = at(2, 8, accumulation="effective")
    topk.attach(networks.critic, score="adv", labels=1)
    with topk.generator_step() as step:

        def forward(given: tuple[Tensor, Tensor]) -> Tensor:
            return -networks.critic(networks.generator(given[0]) @ networks.critic.blur, given[1])[
                "adv"
            ].mean()

        losses = list(step.accumulate(forward, parts(batch(0, 8), [4, 4]), networks=networks.both))
        sum(losses).backward()
    topk.end_step()
    assert networks.gradient().any()


def test_a_replaced_buffer_is_put_back() -> None:
    class Counting(nn.Linear):
        def __init__(self) -> None:
            super().__init__(6, 1, dtype=torch.float64)
            self.register_buffer("calls", torch.zeros(()))

        def forward(self, x: Tensor) -> Tensor:
            self.calls = self.calls + 1
            return super().forward(x)

    networks, critic = Networks(), Counting()
    kept = critic.calls
    topk = at(2, 8, accumulation="effective")
    topk.attach(critic)
    with topk.generator_step() as step:
        for loss in step.accumulate(
            lambda z: -critic(networks.generator(z)).mean(),
            batch(0, 8)[0].split(4),
            networks=[networks.generator, critic],
        ):
            assert critic.calls == 1
            loss.backward()
    assert kept == 0


# --- several calls ---------------------------------------------------------------------------


def test_real_images_and_a_second_call_on_the_same_fakes_take_no_seats() -> None:
    """As in one large batch: reals pass, one selection for two calls on the same fakes."""

    def gradient(micro_batches: list[tuple[Tensor, Tensor]]) -> Tensor:
        networks, topk = Networks(), at(3, 8, accumulation="effective")
        topk.attach(networks.critic, score="adv", labels=1)
        real = torch.linspace(-1, 1, 6, dtype=torch.float64).expand(8, 6)

        def forward(given: tuple[Tensor, Tensor]) -> Tensor:
            z, labels = given
            reals = networks.critic(real[: len(z)], labels)["h"].sum()
            fake = networks.generator(z)
            first = networks.critic(fake, labels)["adv"]
            second = networks.critic(fake, (labels + 1) % CLASSES)["h"]
            return (-first.sum() + second.square().sum() + reals) / 8

        with topk.generator_step() as step:
            for loss in step.accumulate(forward, micro_batches, networks=networks.both):
                loss.backward()
        return networks.gradient()

    whole = batch(0, 8)
    large = gradient([whole])
    assert error(gradient(parts(whole, [4, 4])), large) < 1e-10
    assert error(gradient(parts(whole, [2, 3, 3])), large) < 1e-10


@pytest.mark.parametrize("reentrant", [False, True])
def test_a_critic_that_is_computed_again_in_the_backward_pass(reentrant: bool) -> None:
    def gradient(checkpointed: bool) -> Tensor:
        networks, topk = Networks(), at(3, 8, accumulation="effective")
        topk.attach(networks.critic, score="adv", labels=1)

        def forward(given: tuple[Tensor, Tensor]) -> Tensor:
            fake = networks.generator(given[0])
            call = lambda x: networks.critic(x, given[1])["adv"]  # noqa: E731
            if checkpointed:
                return -checkpoint(call, fake, use_reentrant=reentrant).mean() / 2
            return -call(fake).mean() / 2

        with topk.generator_step() as step:
            micro_batches = parts(batch(0, 8), [4, 4])
            networks.critic.eval()  # computed again, the spectral norm would iterate again
            for loss in step.accumulate(forward, micro_batches, networks=networks.both):
                loss.backward()
        return networks.gradient()

    assert error(gradient(True), gradient(False)) < 1e-12


# --- misuse ----------------------------------------------------------------------------------


class Misuse:
    """An update over two micro-batches of 4, in which something is wrong."""

    def __init__(self, **options) -> None:
        self.networks = Networks()
        self.topk = at(4, 8, **({"accumulation": "effective"} | options))
        self.handle = self.topk.attach(self.networks.critic, score="adv", labels=1)
        self.micro_batches = parts(batch(0, 8), [4, 4])

    def loss(self, given: tuple[Tensor, Tensor]) -> Tensor:
        out = self.networks.critic(self.networks.generator(given[0]), given[1])
        return -out["adv"].mean()

    def passes(self, step: GatedStep, **options) -> Iterator[Tensor]:
        options = {"networks": self.networks.both} | options
        return step.accumulate(self.loss, self.micro_batches, **options)

    def block(self, body: Callable[[GatedStep], None]) -> None:
        """One update, whose block does ``body``."""
        with self.topk.generator_step() as step:
            body(step)
        self.topk.end_step()

    def run(self, loss: Callable[[tuple[Tensor, Tensor]], Tensor], **options) -> None:
        def body(step: GatedStep) -> None:
            options_or_both = {"networks": self.networks.both} | options
            for result in step.accumulate(loss, self.micro_batches, **options_or_both):
                result.backward()

        self.block(body)


@pytest.mark.parametrize("by_hand", [False, True])
def test_an_effective_selection_needs_accumulate(by_hand: bool) -> None:
    wrong = Misuse()

    def body(step: GatedStep) -> None:
        if by_hand:
            step.gate(wrong.networks.generator(wrong.micro_batches[0][0]))
        else:
            wrong.loss(wrong.micro_batches[0])

    with pytest.raises(RuntimeError, match=r"selects over all micro-batches .*step\.accumulate"):
        wrong.block(body)


def test_wrong_arguments_are_named() -> None:
    wrong = Misuse()
    both = wrong.networks.both
    for match, kind, micro_batches, options in (
        ("no micro-batches", ValueError, [], {"networks": both}),
        ("would let the networks' buffers move twice", ValueError, [1], {"networks": []}),
        ("torch.nn.Modules", TypeError, [1], {"networks": [lambda z: z]}),
        ("torch.nn.Modules", TypeError, [1], {"networks": both[0]}),
        ("torch.Generators", TypeError, [1], {"networks": both, "generators": [1]}),
    ):
        wrong.micro_batches = micro_batches
        with pytest.raises(kind, match=match):
            wrong.run(wrong.loss, **options)
    with pytest.raises(ValueError, match="accumulation must be one of micro, effective, not 'all'"):
        TopK(KSchedule(0.5, 0.5), accumulation="all")


def test_one_block_is_one_update() -> None:
    wrong = Misuse()

    def body(step: GatedStep) -> None:
        for _ in range(2):
            for loss in wrong.passes(step):
                loss.backward()

    with pytest.raises(RuntimeError, match="called already in this generator_step"):
        wrong.block(body)


def test_nested_use_is_refused() -> None:
    wrong = Misuse()

    def nested(given: tuple[Tensor, Tensor]) -> Tensor:
        with wrong.topk.generator_step():
            return wrong.loss(given)

    with pytest.raises(RuntimeError, match="cannot be nested"):
        wrong.run(nested)


def test_a_gated_call_before_it_is_refused() -> None:
    wrong = Misuse(accumulation="micro")

    def body(step: GatedStep) -> None:
        wrong.loss(wrong.micro_batches[0])
        wrong.passes(step)

    with pytest.raises(RuntimeError, match="came after a gated call"):
        wrong.block(body)


def test_a_gated_call_between_the_passes_is_refused() -> None:
    wrong = Misuse()

    def body(step: GatedStep) -> None:
        next(wrong.passes(step))
        wrong.loss(wrong.micro_batches[0])

    with pytest.raises(RuntimeError, match=r"between the passes of step.accumulate\(\)"):
        wrong.block(body)


@pytest.mark.parametrize("taken", [0, 1])
@pytest.mark.parametrize("accumulation", ["micro", "effective"])
def test_leaving_it_early_is_an_error(accumulation: str, taken: int) -> None:
    wrong = Misuse(accumulation=accumulation)

    def body(step: GatedStep) -> None:
        passes = wrong.passes(step)
        for _ in range(taken):
            next(passes).backward()

    with pytest.raises(RuntimeError, match=f"left after {taken} of 2 micro-batches"):
        wrong.block(body)


def test_its_iterator_belongs_inside_the_block() -> None:
    wrong = Misuse()
    kept = []
    with contextlib.suppress(RuntimeError):
        wrong.block(lambda step: kept.append(wrong.passes(step)))
    with pytest.raises(RuntimeError, match="belongs inside the generator_step"):
        next(kept[0])


def test_passes_that_do_something_else_are_named() -> None:
    def twice_with_gradient(wrong: Misuse, given: tuple[Tensor, Tensor]) -> Tensor:
        loss = wrong.loss(given)
        return loss + wrong.loss(given) if torch.is_grad_enabled() else loss

    def once_with_gradient(wrong: Misuse, given: tuple[Tensor, Tensor]) -> Tensor:
        loss = wrong.loss(given)
        return loss if torch.is_grad_enabled() else loss + wrong.loss(given)

    def fewer_samples(wrong: Misuse, given: tuple[Tensor, Tensor]) -> Tensor:
        z, labels = given
        return wrong.loss((z[1:], labels[1:]) if torch.is_grad_enabled() else given)

    def unlike_each_other(wrong: Misuse, given: tuple[Tensor, Tensor]) -> Tensor:
        first = given is wrong.micro_batches[0]
        return wrong.loss(given) + (wrong.loss(given) if first else 0)

    def detached_in_one(wrong: Misuse, given: tuple[Tensor, Tensor]) -> Tensor:
        if given is wrong.micro_batches[0]:
            return wrong.loss(given)
        fake = wrong.networks.generator(given[0])
        wrong.networks.critic(fake.detach(), given[1])
        return fake.sum()

    for misuse, match in (
        (twice_with_gradient, "call 2 of the critic .* no scores from the first look"),
        (once_with_gradient, "scored 1 times in the pass that learns and 2 times"),
        (fewer_samples, "has 3 samples in the pass that learns and had 4"),
        (unlike_each_other, "call 2 of the critic .* no scores .* at micro-batch 2"),
        (detached_in_one, "micro-batch 2 gated 0 of its 1 calls of the critic and others 1"),
    ):
        wrong = Misuse()
        with pytest.raises(RuntimeError, match=match):
            wrong.run(lambda given, wrong=wrong, misuse=misuse: misuse(wrong, given))


@pytest.mark.parametrize("accumulation", ["micro", "effective"])
def test_a_gate_without_a_selection_is_named(accumulation: str) -> None:
    wrong = Misuse(accumulation=accumulation)

    def body(step: GatedStep) -> None:
        def forgets(given: tuple[Tensor, Tensor]) -> Tensor:
            fake = step.gate(wrong.networks.generator(given[0]))
            return wrong.networks.critic(fake, given[1])["adv"].sum()

        next(step.accumulate(forgets, wrong.micro_batches, networks=wrong.networks.both))

    with pytest.raises(RuntimeError, match=r"step.select\(\) was not: .* same pass"):
        wrong.block(body)


def own_random_numbers(wrong: Misuse, given: tuple[Tensor, Tensor]) -> Tensor:
    wrong.random = getattr(wrong, "random", torch.Generator().manual_seed(0))
    z = torch.randn(given[0].shape, generator=wrong.random, dtype=torch.float64)
    return wrong.loss((z, given[1]))


def changed_micro_batches(wrong: Misuse, given: tuple[Tensor, Tensor]) -> Tensor:
    given[0].mul_(-1)
    return wrong.loss(given)


@pytest.mark.parametrize("misuse", [own_random_numbers, changed_micro_batches])
def test_other_scores_in_the_second_pass_are_warned_about(misuse: Callable) -> None:
    wrong = Misuse()
    wrong.run(lambda given: misuse(wrong, given))
    with pytest.warns(ReplayWarning, match="8 of 8 samples had another score"):
        wrong.topk.end_epoch()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        wrong.run(wrong.loss)
        wrong.topk.end_epoch()


def test_a_network_that_is_not_named_is_warned_about() -> None:
    wrong = Misuse()
    for _ in range(15):
        wrong.run(wrong.loss, networks=[wrong.networks.generator])
    with pytest.warns(ReplayWarning, match="name every module that it calls in networks="):
        wrong.run(wrong.loss)  # read early, in the epoch


def test_scores_that_are_not_finite_both_times_are_the_same() -> None:
    wrong = Misuse()
    for value in (math.nan, math.inf):
        wrong.micro_batches[0][0][0] = value
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            wrong.run(wrong.loss)
            wrong.topk.end_epoch()
        assert not wrong.topk.stats.mask[0]


def test_a_micro_batch_without_backward_is_warned_about() -> None:
    wrong = Misuse()

    def body(step: GatedStep) -> None:
        passes = wrong.passes(step)
        next(passes).backward()
        next(passes)

    with pytest.warns(NoEffectWarning, match="came back from 1 of 2 micro-batches"):
        wrong.block(body)


def test_few_scores_are_warned_about_once() -> None:
    small = Misuse(accumulation="micro")
    with pytest.warns(SmallSelectionWarning, match="selects among 4 scores only"):
        small.run(small.loss)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        small.run(small.loss)
        effective = Misuse()
        effective.run(effective.loss)


# --- looking at it ---------------------------------------------------------------------------


def test_statistics_are_of_the_update_and_the_picture_of_the_last_micro_batch() -> None:
    networks, topk = Networks(), at(4, 8, accumulation="effective")
    monitor = TopKMonitor(topk, CLASSES)
    update(networks, topk, parts(batch(0, 8), [4, 4]), lambda out: -out["adv"].mean())
    monitor.update()
    assert len(monitor.scores()) == 8
    assert monitor.scalars()["topk/fraction_kept"] == 0.5
    kept = int(topk.stats.mask[4:].sum())
    assert int(topk.stats_of_last_call.k) == kept
    assert torch.equal(topk.stats_of_last_call.scores, topk.stats.scores[4:])
    picture = monitor.kept_vs_dropped(torch.zeros(4, 3, 2, 2))
    assert (picture is None) == (kept in (0, 4))


def test_a_copy_keeps_the_setting() -> None:
    topk = at(4, 8, accumulation="effective")
    assert copy.deepcopy(topk).settings.accumulation == "effective"


def test_a_run_resumes_exactly() -> None:
    loss = lambda out: -out["adv"].mean()  # noqa: E731
    options = {"accumulation": "effective", "policy": "random", "seed": 1}

    def masks(topk: TopK, seeds: range) -> list[Tensor]:
        networks, found = Networks(), []
        for seed in seeds:
            update(networks, topk, parts(batch(seed, 8), [4, 4]), loss)
            found.append(topk.stats.mask)
        return found

    whole = masks(at(3, 8, **options), range(4))
    first, resumed = at(3, 8, **options), at(3, 8, **options)
    start = masks(first, range(2))
    resumed.load_state_dict(first.state_dict())
    rest = masks(resumed, range(2, 4))
    assert all(torch.equal(a, b) for a, b in zip(whole, start + rest, strict=True))
