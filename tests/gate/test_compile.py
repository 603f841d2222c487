"""Static shapes: annealing k recompiles nothing and never looks at a value on the host."""

import shutil

import pytest
import torch
from torch import Tensor, nn
from torch._dynamo import config as dynamo_config
from torch._dynamo.utils import counters

from tests.gate.gan_zoo import TinyCritic, TinyGenerator
from topk_plugin import GatedStep, KSchedule, TopK

BATCH = 32


def make_networks() -> tuple[nn.Module, nn.Module]:
    torch.manual_seed(0)
    return TinyGenerator(batch_norm=True), TinyCritic("projection")


def train(
    generator: nn.Module, critic: nn.Module, topk: TopK | None, slice_k: bool = False
) -> tuple[list[Tensor], int, list[int]]:
    """Ten epochs of one step: the generator's gradients, graphs compiled after the first, ks."""
    gradients, ks, compiled_after_first = [], [], 0
    schedule = KSchedule(0.8, 0.1)

    @torch.compile(backend="aot_eager", dynamic=False)
    def sliced_loss(scores: Tensor) -> Tensor:
        return -torch.sigmoid(scores).mean()

    torch.manual_seed(1)
    for epoch in range(10):
        z, labels = torch.randn(BATCH, 5), torch.randint(0, 3, (BATCH,))
        critic(generator(z, labels).detach(), labels)["adv_output"].mean().backward()
        generator.zero_grad()
        if topk is not None:
            with topk.generator_step():
                (-critic(generator(z, labels), labels)["adv_output"]).mean().backward()
            ks.append(topk.k)
            topk.end_step()
            topk.end_epoch()
        elif slice_k:
            scores = critic(generator(z, labels), labels)["adv_output"]
            ks.append(schedule.k(epoch, BATCH))
            sliced_loss(torch.topk(scores, ks[-1]).values).backward()
        gradients.append(torch.cat([p.grad.flatten().clone() for p in generator.parameters()]))
        if epoch == 0:
            compiled_after_first = counters["stats"]["unique_graphs"]
    return gradients, counters["stats"]["unique_graphs"] - compiled_after_first, ks


@pytest.fixture(autouse=True)
def _fresh_dynamo():
    torch._dynamo.reset()
    counters.clear()
    yield
    torch._dynamo.reset()
    counters.clear()


@pytest.mark.parametrize(
    "order", ["compile then attach", "attach then compile", "compile in place"]
)
def test_annealing_k_recompiles_nothing(order: str) -> None:
    generator, critic = make_networks()
    plain = TopK(KSchedule(0.8, 0.1))
    handle = plain.attach(critic, score="adv_output")
    expected, _, ks = train(generator, critic, plain)
    handle.remove()
    assert len(set(ks)) == 10  # ten values of k

    generator, critic = make_networks()
    topk = TopK(KSchedule(0.8, 0.1))
    if order == "compile then attach":
        generator = torch.compile(generator, backend="aot_eager")
        critic = torch.compile(critic, backend="aot_eager")
        topk.attach(critic, score="adv_output")
    elif order == "attach then compile":
        topk.attach(critic, score="adv_output")
        generator = torch.compile(generator, backend="aot_eager")
        critic = torch.compile(critic, backend="aot_eager")
    else:
        topk.attach(critic, score="adv_output")
        generator.compile(backend="aot_eager")
        critic.compile(backend="aot_eager")
    gradients, recompilations, compiled_ks = train(generator, critic, topk)
    assert counters["stats"]["unique_graphs"] > 0  # something was compiled
    assert recompilations == 0
    assert compiled_ks == ks
    for ours, eager in zip(gradients, expected, strict=True):
        assert torch.allclose(ours, eager, rtol=1e-4, atol=1e-7)


def test_a_slice_recompiles_at_every_k() -> None:
    generator, critic = make_networks()
    limit = "recompile_limit" if hasattr(dynamo_config, "recompile_limit") else "cache_size_limit"
    with dynamo_config.patch({limit: 64}):  # else torch gives up compiling after eight
        _, recompilations, ks = train(generator, critic, None, slice_k=True)
    assert recompilations == len(set(ks)) - 1 == 9


@pytest.mark.skipif(shutil.which("g++") is None, reason="inductor needs a C++ compiler on a CPU")
def test_inductor_gives_the_same_gradient() -> None:
    generator, critic = make_networks()
    plain = TopK(KSchedule(0.8, 0.1))
    handle = plain.attach(critic, score="adv_output")
    expected, _, _ = train(generator, critic, plain)
    handle.remove()
    generator, critic = make_networks()
    generator, critic = torch.compile(generator), torch.compile(critic)
    topk = TopK(KSchedule(0.8, 0.1))
    topk.attach(critic, score="adv_output")
    gradients, recompilations, _ = train(generator, critic, topk)
    assert recompilations == 0
    for ours, eager in zip(gradients, expected, strict=True):
        assert torch.allclose(ours, eager, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("policy", ["top", "bottom", "random", "balanced"])
@pytest.mark.parametrize("normalize", ["kept", "batch"])
def test_a_gated_step_never_looks_at_a_value_on_the_host(policy: str, normalize: str) -> None:
    """Meta tensors have no values: anything that synchronised would raise."""
    generator, critic = make_networks()
    generator, critic = generator.to("meta"), critic.to("meta")
    topk = TopK(KSchedule(0.8, 0.1), policy=policy, normalize=normalize)
    topk.attach(critic, score="adv_output", labels=1)
    labels = torch.zeros(BATCH, dtype=torch.int64, device="meta")
    with topk.generator_step():
        out = critic(generator(torch.randn(BATCH, 5, device="meta"), labels), labels)
        out["adv_output"].mean().backward()
    topk.end_step()
    stats = topk.stats
    for value in (stats.k, stats.threshold, stats.score_kept_mean, stats.nonfinite_total):
        assert value.device.type == "meta"


@pytest.mark.parametrize("policy", ["top", "balanced"])
@pytest.mark.parametrize("block", ["inside", "outside"])
def test_a_whole_step_is_one_graph_and_k_moves_without_another(policy: str, block: str) -> None:
    """The explicit form: generator, gate, critic, selection and loss, compiled as one."""
    generator, critic = make_networks()
    compiled_topk, eager_topk = (TopK(KSchedule(0.8, 0.1), policy=policy) for _ in range(2))
    compiled_topk.prepare(BATCH, "cpu")

    def gated_loss(step: GatedStep, z: Tensor, labels: Tensor) -> Tensor:
        fake = step.gate(generator(z, labels))
        scores = critic(fake, labels)["adv_output"]
        step.select(scores, labels)
        return -scores.mean()

    def whole_step(topk: TopK, z: Tensor, labels: Tensor) -> Tensor:
        with topk.generator_step() as step:
            return gated_loss(step, z, labels)

    compiled_whole = torch.compile(whole_step, backend="aot_eager", fullgraph=True)
    compiled_loss = torch.compile(gated_loss, backend="aot_eager", fullgraph=True)

    def gradient(topk: TopK, compiled: bool, z: Tensor, labels: Tensor) -> Tensor:
        generator.zero_grad()
        if not compiled:
            whole_step(topk, z, labels).backward()
        elif block == "inside":
            compiled_whole(topk, z, labels).backward()
        else:
            with topk.generator_step() as step:
                loss = compiled_loss(step, z, labels)
            loss.backward()
        topk.end_step()
        return torch.cat([p.grad.flatten().clone() for p in generator.parameters()])

    ks = []
    for epoch in range(6):
        torch.manual_seed(epoch)
        z, labels = torch.randn(BATCH, 5), torch.randint(0, 3, (BATCH,))
        expected = gradient(eager_topk, False, z, labels)
        ours = gradient(compiled_topk, True, z, labels)
        assert torch.allclose(ours, expected, rtol=1e-4, atol=1e-7)
        assert torch.equal(compiled_topk.stats.mask, eager_topk.stats.mask)
        assert compiled_topk.k == eager_topk.k
        ks.append(compiled_topk.k)
        for topk in (compiled_topk, eager_topk):
            topk.end_epoch()
    assert len(set(ks)) == 6
    assert counters["stats"]["unique_graphs"] == 1
    assert compiled_topk.stats.nonfinite_total == 0


def test_an_unprepared_whole_step_says_what_is_missing() -> None:
    generator, _ = make_networks()
    topk = TopK(KSchedule(0.8, 0.1))

    @torch.compile(backend="eager", fullgraph=True)
    def whole_step(z: Tensor, labels: Tensor) -> Tensor:
        with topk.generator_step() as step:
            scores = step.gate(generator(z, labels)).mean(dim=(1, 2, 3))
            step.select(scores)
            return scores.mean()

    with pytest.raises(Exception, match=r"topk\.prepare"):
        whole_step(torch.randn(BATCH, 5), torch.randint(0, 3, (BATCH,)))
