"""Conditional batch normalisation with its ReLU, against torch's operations one by one."""

import os
import time
import traceback
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from topk_plugin.ops import conditional_batch_norm as module
from topk_plugin.ops import normalise_and_modulate
from topk_plugin.ops.batch_norm_reference import conditional_batch_norm_relu_reference
from topk_plugin.ops.conditional_batch_norm import conditional_batch_norm_relu

EPS = 1e-4
MODES = pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
FORMATS = pytest.mark.parametrize("channels_last", [False, True])
RELU = pytest.mark.parametrize("relu", [True, False])


@pytest.fixture(scope="module", autouse=True)
def _algebra_for_small_images() -> Iterator[None]:
    """No image is too small, and each one is worked on in several parts."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "LEAST_ELEMENTS", 0)
        patch.setattr(module, "LEAST_ELEMENTS_16_BIT", 0)
        patch.setattr(normalise_and_modulate, "PART_ELEMENTS", 50)
        yield


def _inputs(
    batch: int = 4,
    channels: int = 3,
    sizes: tuple[int, int] = (4, 5),
    channels_last: bool = True,
    seed: int = 0,
) -> list[Tensor]:
    """x, gain, bias and the running statistics in float64."""
    generator = torch.Generator().manual_seed(seed)
    memory_format = torch.channels_last if channels_last else torch.contiguous_format

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, dtype=torch.float64, generator=generator)

    x = (2 * draw(batch, channels, *sizes) + 1).contiguous(memory_format=memory_format)
    gain, bias = 0.5 * draw(batch, channels), draw(batch, channels)
    return [x, gain, bias, draw(channels), draw(channels).square() + 0.5]


def _run(op, inputs: list[Tensor], **options) -> list[Tensor]:
    """The result, the running statistics, and the gradients of x, gain and bias."""
    options = {"training": True, "momentum": 0.1, "eps": EPS, **options}
    x, gain, bias = (t.detach().requires_grad_() for t in inputs[:3])
    running = [None if t is None else t.clone() for t in inputs[3:]]
    result = op(x, gain, bias, *running, **options)
    generator = torch.Generator().manual_seed(1)
    incoming = torch.randn(result.shape, dtype=torch.float64, generator=generator)
    gradients = torch.autograd.grad(result, (x, gain, bias), incoming.to(result.dtype))
    return [result.detach(), *(t for t in running if t is not None), *gradients]


def _assert_close(found: list[Tensor], expected: list[Tensor], tolerance: float) -> None:
    for got, wanted in zip(found, expected, strict=True):
        assert got.shape == wanted.shape
        scale = wanted.abs().max().clamp_min(1) if wanted.numel() else 1
        assert ((got.double() - wanted).abs() <= tolerance * scale).all()


@settings(max_examples=60, deadline=None)
@given(
    batch=st.integers(1, 5),
    channels=st.integers(1, 6),
    sizes=st.tuples(st.integers(1, 6), st.integers(2, 6)),
    channels_last=st.booleans(),
    seed=st.integers(0, 2**31),
    training=st.booleans(),
    relu=st.booleans(),
)
def test_equals_the_operations(batch, channels, sizes, channels_last, seed, **options) -> None:
    inputs = _inputs(batch, channels, sizes, channels_last, seed)
    expected = _run(conditional_batch_norm_relu_reference, inputs, **options)
    _assert_close(_run(conditional_batch_norm_relu, inputs, **options), expected, 1e-11)


@MODES
@FORMATS
def test_equals_the_operations_at_the_size_of_a_network(training, channels_last) -> None:
    inputs = _inputs(8, 48, (16, 16), channels_last)
    expected = _run(conditional_batch_norm_relu_reference, inputs, training=training)
    found = _run(conditional_batch_norm_relu, inputs, training=training)
    assert not torch.equal(found[0], expected[0])  # it is not the reference that ran
    _assert_close(found, expected, 1e-13)


@pytest.mark.parametrize("op", [conditional_batch_norm_relu, conditional_batch_norm_relu_reference])
@MODES
def test_is_batch_norm_with_a_weight_and_a_bias_where_all_samples_share_them(op, training) -> None:
    x, gain, bias, mean, variance = _inputs()
    norm = nn.BatchNorm2d(3, eps=EPS, momentum=0.3).double().train(training)
    with torch.no_grad():
        norm.weight.copy_(1 + gain[0])
        norm.bias.copy_(bias[0])
        norm.running_mean.copy_(mean)
        norm.running_var.copy_(variance)
    shared = (gain[:1].expand(4, 3), bias[:1].expand(4, 3))
    result = op(x, *shared, mean, variance, training=training, momentum=0.3, eps=EPS)
    torch.testing.assert_close(result, F.relu(norm(x)), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(mean, norm.running_mean, rtol=1e-13, atol=1e-13)
    torch.testing.assert_close(variance, norm.running_var, rtol=1e-13, atol=1e-13)


@MODES
@RELU
def test_gradients_by_finite_differences(training: bool, relu: bool) -> None:
    x, gain, bias, mean, variance = _inputs(3, 2, (2, 2))

    def run(x: Tensor, gain: Tensor, bias: Tensor) -> Tensor:
        return conditional_batch_norm_relu(
            x,
            gain,
            bias,
            mean.clone(),
            variance.clone(),
            training=training,
            momentum=0.1,
            eps=EPS,
            relu=relu,
        )

    assert torch.autograd.gradcheck(run, [t.requires_grad_() for t in (x, gain, bias)])


def test_without_running_statistics_the_batch_normalises() -> None:
    inputs = _inputs()
    expected = _run(conditional_batch_norm_relu, inputs)
    found = _run(conditional_batch_norm_relu, [*inputs[:3], None, None])
    assert torch.equal(found[0], expected[0])
    assert torch.equal(found[1], expected[3])


def test_evaluation_leaves_the_running_statistics_alone() -> None:
    inputs = _inputs()
    _, mean, variance, *_ = _run(conditional_batch_norm_relu, inputs, training=False)
    assert torch.equal(mean, inputs[3])
    assert torch.equal(variance, inputs[4])


def test_only_the_gradients_that_are_asked_for() -> None:
    x, gain, bias, *running = _inputs()
    result = conditional_batch_norm_relu(
        x, gain.requires_grad_(), bias, *running, training=True, momentum=0.1, eps=EPS
    )
    assert result.requires_grad
    assert torch.autograd.grad(result.sum(), gain)[0].shape == gain.shape


def test_an_empty_batch_in_evaluation() -> None:
    found = _run(conditional_batch_norm_relu, _inputs(batch=0), training=False)
    assert found[0].shape == found[3].shape == (0, 3, 4, 5)


@FORMATS
def test_the_memory_format_is_kept(channels_last: bool) -> None:
    inputs = _inputs(channels_last=channels_last)
    found = _run(conditional_batch_norm_relu, inputs)
    assert found[0].stride() == found[3].stride() == inputs[0].stride()


def test_a_part_of_a_larger_tensor_and_broadcast_gains() -> None:
    x, gain, bias, *_ = _inputs(4, 6, (7, 5))
    inputs = [x[:, ::2, 1:, :-1], gain[:, ::2], bias[:1, ::2].expand(4, 3), *_inputs()[3:]]
    expected = _run(conditional_batch_norm_relu_reference, inputs)
    _assert_close(_run(conditional_batch_norm_relu, inputs), expected, 1e-12)


@MODES
@RELU
def test_float32(training: bool, relu: bool) -> None:
    inputs = _inputs(4, 16, (9, 8))
    options = {"training": training, "relu": relu}
    expected = _run(conditional_batch_norm_relu_reference, inputs, **options)
    found = _run(conditional_batch_norm_relu, [t.float() for t in inputs], **options)
    assert {t.dtype for t in found} == {torch.float32}
    _assert_close(found, expected, 2e-6)


def _bfloat16_inputs(offset: float = 0.0) -> list[Tensor]:
    """Whose results without ReLU all lie away from 0, where rounding would turn gradients off."""
    x, gain, bias, mean, variance = _inputs(6, 16, (9, 8))
    bias = torch.where(bias < 0, -6.0, 6.0)
    x, gain = x.clamp(-5, 7) + offset, gain.clamp(-0.5, 0.5)
    mean, variance = offset + 1 + mean / 10, 3 + variance
    return [x.bfloat16(), gain.bfloat16(), bias.bfloat16(), mean.float(), variance.float()]


@MODES
@RELU
@pytest.mark.parametrize("autocast", [False, True])
def test_bfloat16_images_with_float32_statistics(training, relu, autocast) -> None:
    inputs = _bfloat16_inputs()
    options = {"training": training, "relu": relu}
    expected = _run(conditional_batch_norm_relu_reference, [t.double() for t in inputs], **options)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        found = _run(conditional_batch_norm_relu, inputs, **options)
    result, mean, variance, *gradients = found
    assert result.dtype == torch.bfloat16
    assert [g.dtype for g in gradients] == [torch.bfloat16] * 3
    _assert_close([mean, variance], expected[1:3], 1e-6)
    _assert_close([result, *gradients], [expected[0], *expected[3:]], 8e-3)


def test_float32_gains_of_a_bfloat16_image_get_float32_gradients() -> None:
    x, gain, bias, *running = _bfloat16_inputs()
    inputs = [x, gain.float(), bias.float(), *running]
    found = _run(conditional_batch_norm_relu, inputs)
    expected = _run(conditional_batch_norm_relu_reference, [t.double() for t in inputs])
    assert [t.dtype for t in found[3:]] == [torch.bfloat16, torch.float32, torch.float32]
    assert found[0].dtype == _run(conditional_batch_norm_relu_reference, inputs)[0].dtype
    _assert_close(found, expected, 8e-3)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-4), (torch.bfloat16, 8e-3)])
def test_a_mean_that_is_large_against_the_deviation(dtype, tolerance) -> None:
    offset = 1000.0 if dtype == torch.float32 else 30.0
    inputs = _bfloat16_inputs(offset)
    if dtype == torch.float32:
        inputs = [t.float() for t in inputs]
    expected = _run(conditional_batch_norm_relu_reference, [t.double() for t in inputs])
    _assert_close(_run(conditional_batch_norm_relu, inputs), expected, tolerance)


def test_nan_is_not_hidden_by_the_relu() -> None:
    inputs = _inputs()
    inputs[1][2, 1] = torch.nan
    result, *_, x_gradient, _, _ = _run(conditional_batch_norm_relu, inputs)
    assert result[2, 1].isnan().all()
    assert not result[:, [0, 2]].isnan().any()
    assert x_gradient[:, 1].isnan().all()


def test_a_second_gradient_is_refused() -> None:
    x, gain, bias, *running = _inputs()
    x.requires_grad_()
    result = conditional_batch_norm_relu(
        x, gain, bias, *running, training=True, momentum=0.1, eps=EPS
    )
    (gradient,) = torch.autograd.grad(result.square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match=r"no gradient of its gradient.*TOPK_PLUGIN_OPS"):
        gradient.square().sum().backward()


def test_the_references_can_be_forced_and_have_a_second_gradient(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("TOPK_PLUGIN_OPS", "reference")
    inputs = _inputs()
    expected = _run(conditional_batch_norm_relu_reference, inputs)
    found = _run(conditional_batch_norm_relu, inputs)
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))
    x, gain, bias, *running = inputs
    x.requires_grad_()
    result = conditional_batch_norm_relu(
        x, gain, bias, *running, training=True, momentum=0.1, eps=EPS
    )
    (gradient,) = torch.autograd.grad(result.square().sum(), x, create_graph=True)
    gradient.square().sum().backward()
    assert x.grad is not None


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_small_images_are_left_to_the_operations(dtype, monkeypatch) -> None:
    monkeypatch.setattr(module, "LEAST_ELEMENTS", 241)
    monkeypatch.setattr(module, "LEAST_ELEMENTS_16_BIT", 241)
    inputs = [*(t.to(dtype) for t in _inputs()[:3]), *(t.float() for t in _inputs()[3:])]

    def node() -> str:
        leaves = [t.detach().requires_grad_() for t in inputs[:3]]
        options = {"training": True, "momentum": 0.1, "eps": EPS}
        return conditional_batch_norm_relu(*leaves, *inputs[3:], **options).grad_fn.name()

    assert node().startswith("Relu")  # 240 elements
    monkeypatch.setattr(module, "LEAST_ELEMENTS", 240)
    monkeypatch.setattr(module, "LEAST_ELEMENTS_16_BIT", 240)
    assert "normalise_and_modulate" in node()


@MODES
@FORMATS
def test_opcheck(training: bool, channels_last: bool) -> None:
    x, gain, bias, mean, variance = _inputs(channels_last=channels_last)
    leaves = [t.requires_grad_() for t in (x, gain, bias)]
    ops = torch.ops.topk_plugin
    options = {"training": training, "momentum": 0.1, "eps": EPS}
    torch.library.opcheck(
        ops.conditional_batch_norm_relu.default, (*leaves, mean, variance), options
    )
    statistics = ops.batch_statistics(x.detach(), "")
    torch.library.opcheck(ops.batch_statistics.default, (x.detach(), ""))
    count = statistics[2] if training else None
    torch.library.opcheck(
        ops.normalise_and_modulate.default, (*leaves, *statistics[:2], count, True, "")
    )
    details = [t.detach() for t in leaves]
    torch.library.opcheck(
        ops.normalise_and_modulate_backward.default,
        (details[0], details[0], *details, *statistics[:2], count, True, ""),
    )


@MODES
@pytest.mark.parametrize("dynamic", [False, True])
@pytest.mark.parametrize("opaque", [False, True], ids=["plain", "algebra"])
def test_compiles_as_one_graph(training, dynamic, opaque, monkeypatch) -> None:
    torch._dynamo.reset()
    if opaque:
        monkeypatch.setattr(module, "_is_plain_better", lambda x: False)
    compiled = torch.compile(
        conditional_batch_norm_relu, fullgraph=True, backend="aot_eager", dynamic=dynamic
    )
    inputs = _inputs()
    expected = _run(conditional_batch_norm_relu_reference, inputs, training=training)
    _assert_close(_run(compiled, inputs, training=training), expected, 1e-12)


@MODES
def test_meta_tensors_have_a_result(training: bool) -> None:
    inputs = [t.to("meta", torch.bfloat16) for t in _inputs()]
    result = conditional_batch_norm_relu(*inputs, training=training, momentum=0.1, eps=EPS)
    assert (result.shape, result.dtype) == (inputs[0].shape, torch.bfloat16)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({0: (4, 3, 5)}, r"x \[4, 3, 5\], gain \[4, 3\] and bias \[4, 3\] do not fit; allowed"),
        ({1: (4, 2)}, r"gain \[4, 2\]"),
        ({2: (1, 3)}, r"bias \[1, 3\]"),
        ({3: (2,)}, r"running_mean \[2\] .* do not fit x"),
        ({4: None}, "both be given, or both be None"),
    ],
)
def test_arguments_that_do_not_fit_are_named(change, message) -> None:
    inputs: list[Tensor | None] = list(_inputs())
    for index, shape in change.items():
        inputs[index] = None if shape is None else torch.zeros(shape)
    with pytest.raises(ValueError, match=message):
        conditional_batch_norm_relu(*inputs, training=True, momentum=0.1, eps=EPS)


def test_statistics_that_are_missing_are_named() -> None:
    x, gain, bias, *_ = _inputs()
    with pytest.raises(ValueError, match="evaluation mode needs running_mean and running_var"):
        conditional_batch_norm_relu(
            x, gain, bias, None, None, training=False, momentum=0.1, eps=EPS
        )
    single = _inputs(1, 3, (1, 1))
    with pytest.raises(ValueError, match="at least two values a channel"):
        conditional_batch_norm_relu(*single, training=True, momentum=0.1, eps=EPS)


# Two processes, of which the first has three times as many samples as the second, or all.

SAMPLES = {"both": (6, 2), "one": (8, 0)}


def _own_inputs(rank: int, case: str) -> list[Tensor]:
    x, gain, bias, *running = _inputs(8, 5, (4, 3))
    own = slice(0, SAMPLES[case][0]) if rank == 0 else slice(SAMPLES[case][0], 8)
    return [x[own], gain[own], bias[own], *running]


def _train(op, inputs: list[Tensor], **options) -> list[Tensor]:
    """As _run does, with an incoming gradient that belongs to the sample."""
    leaves = [t.detach().clone().requires_grad_() for t in inputs[:3]]
    running = [t.clone() for t in inputs[3:]]
    result = op(*leaves, *running, training=True, momentum=0.1, eps=EPS, **options)
    (result * torch.sin(17 * leaves[0].detach())).sum().backward()
    return [result.detach(), *(t.grad for t in leaves), *running]


def _process(rank: int, folder: str) -> None:
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2
    )
    try:
        group = dist.group.WORLD
        compiled = torch.compile(conditional_batch_norm_relu, fullgraph=True, backend="aot_eager")
        ops = {
            "eager": conditional_batch_norm_relu,
            "compiled": compiled,
            "reference": conditional_batch_norm_relu_reference,
        }
        found = {
            (name, case): _train(op, _own_inputs(rank, case), group=group)
            for name, op in ops.items()
            for case in SAMPLES
        }
        os.environ["TOPK_PLUGIN_OPS"] = "reference"
        inputs = _own_inputs(rank, "both")
        found["forced", "both"] = _train(conditional_batch_norm_relu, inputs, group=group)
        torch.save(found, f"{folder}/result-{rank}.pt")
        (Path(folder) / f"done-{rank}").touch()
    except BaseException:
        traceback.print_exc()
        os._exit(1)
    # Leave together and without torch's teardown, which sometimes aborts (see test_distributed).
    while not all((Path(folder) / f"done-{r}").exists() for r in range(2)):
        time.sleep(0.01)
    os._exit(0)


def test_processes_of_a_group_share_their_statistics(tmp_path: Path) -> None:
    mp.spawn(_process, args=(str(tmp_path),), nprocs=2)
    joined = _train(conditional_batch_norm_relu_reference, _inputs(8, 5, (4, 3)))
    ranks = [torch.load(tmp_path / f"result-{r}.pt", weights_only=True) for r in range(2)]
    assert len(ranks[0]) == 7
    for case in ranks[0]:
        first, second = (rank[case] for rank in ranks)
        for a, b, expected in zip(first[:4], second[:4], joined[:4], strict=True):
            torch.testing.assert_close(torch.cat([a, b]), expected, rtol=1e-12, atol=1e-12)
        for own in (first, second):
            torch.testing.assert_close(own[4:], joined[4:], rtol=1e-13, atol=1e-13)
