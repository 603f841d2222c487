"""The kernels of conditional batch normalisation, in triton's interpreter, against torch's."""

from collections.abc import Iterator

import pytest
import torch
import torch.distributed as dist
from torch import Tensor

from topk_plugin.ops import channel_statistics, normalise_and_modulate
from topk_plugin.ops.batch_norm_reference import conditional_batch_norm_relu_reference
from topk_plugin.ops.conditional_batch_norm import conditional_batch_norm_relu
from topk_plugin.ops.dispatch import OPS

EPS = 1e-4
MODES = pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
FORMATS = pytest.mark.parametrize("channels_last", [False, True], ids=["contiguous", "last"])
RELU = pytest.mark.parametrize("relu", [True, False])

# The interpreter cuts bits off where a GPU rounds to bfloat16: half of the last bit becomes all
# of it (2**-7 of the value).
TOLERANCE = {torch.float64: 1e-12, torch.float32: 2e-6, torch.bfloat16: 2**-7}


@pytest.fixture(scope="module", autouse=True)
def _kernels() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(OPS, "conditional_batch_norm_relu", ("triton", "triton", "triton"))
        yield


def _inputs(
    shape: tuple[int, ...],
    channels_last: bool,
    dtype: torch.dtype = torch.float64,
    parameter_dtype: torch.dtype | None = None,
) -> list[Tensor]:
    """Whose results without ReLU all lie away from 0, where rounding would turn gradients off."""
    generator = torch.Generator().manual_seed(sum(shape))

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, dtype=torch.float64, generator=generator).clamp(-2.5, 2.5)

    rows = shape[:2]
    x = 2 * draw(*shape) + 1
    gain, bias = 0.2 * draw(*rows), torch.where(draw(*rows) < 0, -6.0, 6.0)
    mean, variance = 1 + 0.1 * draw(rows[1]), 4 + 0.1 * draw(rows[1])
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    x = x.to(dtype).to(memory_format=torch.channels_last if channels_last else None)
    parameters = [t.to(parameter_dtype or dtype) for t in (gain, bias)]
    return [x, *parameters, mean.to(wide), variance.to(wide)]


def _run(op, inputs: list[Tensor], **options) -> list[Tensor]:
    """The result, the running statistics, and the gradients of x, gain and bias."""
    options = {"training": True, "momentum": 0.1, "eps": EPS, **options}
    leaves = [t.detach().requires_grad_() for t in inputs[:3]]
    running = [t.clone() for t in inputs[3:]]
    result = op(*leaves, *running, **options)
    generator = torch.Generator().manual_seed(1)
    incoming = torch.randn(result.shape, dtype=torch.float64, generator=generator)
    gradients = torch.autograd.grad(result, leaves, incoming.to(torch.bfloat16).to(result.dtype))
    return [result.detach(), *running, *gradients]


def _check(inputs: list[Tensor], tolerance: float | None = None, **options) -> None:
    found = _run(conditional_batch_norm_relu, inputs, **options)
    expected = _run(conditional_batch_norm_relu_reference, [t.double() for t in inputs], **options)
    for got, wanted, like in zip(
        found, expected, [*inputs[:1], *inputs[3:], *inputs], strict=False
    ):
        assert got.dtype == like.dtype
        assert got.shape == wanted.shape
        allowed = tolerance or TOLERANCE[got.dtype]
        assert (got.double() - wanted).abs().max() <= allowed * wanted.abs().max().clamp_min(1)


# Channels and pixels on both sides of a tile's edges; one value of each.
SHAPES = [(3, 5, 3, 7), (2, 64, 8, 8), (2, 65, 5, 9), (1, 3, 17, 31), (5, 1, 1, 1), (2, 130, 2, 2)]


@pytest.mark.parametrize("shape", SHAPES)
@FORMATS
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_odd_sizes(shape, channels_last, dtype) -> None:
    if shape[0] * shape[2] * shape[3] <= 5:
        # of 5 values the deviation can be small, and a rounding error large against it
        _check(_inputs(shape, channels_last, dtype), 5 * TOLERANCE[dtype])
    else:
        _check(_inputs(shape, channels_last, dtype))


@MODES
@RELU
@FORMATS
@pytest.mark.parametrize("dtype", list(TOLERANCE))
def test_every_mode(training, relu, channels_last, dtype) -> None:
    _check(_inputs((3, 6, 5, 7), channels_last, dtype), training=training, relu=relu)


@pytest.mark.parametrize("parameter_dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_gains_of_another_dtype(dtype, parameter_dtype) -> None:
    _check(_inputs((3, 6, 5, 7), True, dtype, parameter_dtype))


@FORMATS
@pytest.mark.parametrize("programs", [1, 5, 10**6])
def test_sums_in_several_parts(channels_last, programs, monkeypatch) -> None:
    from topk_plugin.ops.kernels import conditional_batch_norm_triton as kernels

    monkeypatch.setattr(kernels, "TILE", 64)
    monkeypatch.setattr(kernels, "TILE_CHANNELS", 4)
    monkeypatch.setattr(kernels, "TILE_POSITIONS", 16)
    monkeypatch.setattr(kernels, "FINISH_CHANNELS", 4)
    monkeypatch.setattr(kernels, "LEAST_TILES", 1)
    monkeypatch.setattr(kernels, "PROGRAMS", programs)
    _check(_inputs((3, 6, 7, 5), channels_last))


@FORMATS
def test_a_mean_that_is_large_against_the_deviation(channels_last: bool) -> None:
    inputs = _inputs((3, 5, 8, 8), channels_last, torch.float32)
    inputs[0] = inputs[0] + 3000
    statistics = torch.ops.topk_plugin.batch_statistics(inputs[0], "")
    wide = inputs[0].double()
    torch.testing.assert_close(statistics[0].double(), wide.mean((0, 2, 3)), rtol=2e-7, atol=0)
    variance = wide.var((0, 2, 3), unbiased=False)
    torch.testing.assert_close(statistics[1].double(), variance, rtol=1e-6, atol=0)


def test_a_constant_channel_has_no_variance() -> None:
    x = torch.full((3, 5, 4, 4), 0.1)
    mean, variance, count = torch.ops.topk_plugin.batch_statistics(x, "")
    assert torch.equal(mean, torch.full((5,), 0.1))
    assert torch.equal(variance, torch.zeros(5))
    assert count == 48


def test_nan_is_not_hidden() -> None:
    inputs = _inputs((3, 5, 4, 4), True, torch.float32)
    inputs[0][1, 2, 3, 3] = torch.nan
    result, mean, variance, gradient, *_ = _run(conditional_batch_norm_relu, inputs)
    for found in (result[:, 2], mean[2], variance[2], gradient[:, 2]):
        assert found.isnan().all()
    assert not result[:, :2].isnan().any()


def test_only_one_relu_decides_forward_and_backward() -> None:
    """Where the result is 0 so is the gradient, also where rounding decides."""
    x, gain, _, *running = _inputs((4, 6, 8, 8), True, torch.float32)
    x = (0.01 * x).requires_grad_()
    bias = torch.zeros_like(gain)
    options = {"training": False, "momentum": 0.1, "eps": EPS}
    running[0].zero_()
    result = conditional_batch_norm_relu(x, gain, bias, *running, **options)
    (gradient,) = torch.autograd.grad(result.sum(), x)
    assert torch.equal(gradient != 0, result > 0)
    assert 0.1 < (result > 0).double().mean() < 0.9


@MODES
def test_layouts_that_are_neither(training: bool) -> None:
    x, gain, bias, *running = _inputs((3, 6, 5, 8), False, torch.float32)
    for view in (x.transpose(2, 3), x[:, :, ::2], x[:, :, 1:, 1:]):
        _check([view, gain, bias, *running], training=training)
    _check([x, gain[:1].expand(3, 6), bias.t().contiguous().t(), *running], training=training)


def test_an_empty_batch_in_evaluation() -> None:
    found = _run(
        conditional_batch_norm_relu, _inputs((0, 3, 4, 4), True, torch.float32), training=False
    )
    assert found[0].shape == found[3].shape == (0, 3, 4, 4)


@FORMATS
def test_the_memory_format_is_kept(channels_last: bool) -> None:
    inputs = _inputs((2, 3, 4, 5), channels_last, torch.float32)
    found = _run(conditional_batch_norm_relu, inputs)
    assert found[0].stride() == found[3].stride() == inputs[0].stride()


def test_no_values_in_between_are_kept() -> None:
    x, gain, bias, *running = (t.requires_grad_(i < 3) for i, t in enumerate(
        _inputs((2, 3, 4, 5), True, torch.float32)
    ))  # fmt: skip
    kept: list[int] = []

    def keep(tensor: Tensor) -> Tensor:
        if tensor.dim() == 4:
            kept.append(tensor.data_ptr())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        conditional_batch_norm_relu(x, gain, bias, *running, training=True, momentum=0.1, eps=EPS)
    assert kept == [x.data_ptr()]


def test_a_second_gradient_is_refused() -> None:
    x, gain, bias, *running = _inputs((2, 3, 4, 5), True, torch.float32)
    x.requires_grad_()
    result = conditional_batch_norm_relu(
        x, gain, bias, *running, training=True, momentum=0.1, eps=EPS
    )
    (gradient,) = torch.autograd.grad(result.square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="no gradient of its gradient"):
        gradient.square().sum().backward()


def test_processes_of_a_group_share_their_statistics(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if another process had the same batch: the same as the batch twice in one process.

    Two real processes are in the tests of the algebra, whose collectives are these.
    """
    inputs = _inputs((3, 6, 5, 7), True)
    twice = [torch.cat([t, t]) for t in inputs[:3]] + inputs[3:]

    def train(inputs: list[Tensor], group_name: str) -> list[Tensor]:
        leaves = [t.detach().requires_grad_() for t in inputs[:3]]
        running = [t.clone() for t in inputs[3:]]
        result = torch.ops.topk_plugin.conditional_batch_norm_relu(
            *leaves, *running, training=True, momentum=0.1, eps=EPS, group_name=group_name
        )
        (result * torch.sin(17 * leaves[0].detach())).sum().backward()
        return [result.detach(), *(t.grad for t in leaves), *running]

    expected = train(twice, "")
    for module in (channel_statistics, normalise_and_modulate):
        monkeypatch.setattr(module, "group_of", lambda name: None)
    monkeypatch.setattr(dist, "get_world_size", lambda group: 2)
    monkeypatch.setattr(dist, "all_gather", lambda all, own, group: [t.copy_(own) for t in all])
    monkeypatch.setattr(dist, "all_reduce", lambda own, group: own.mul_(2))
    found = train(inputs, "another")
    for got, wanted in zip(found, expected, strict=True):
        torch.testing.assert_close(got, wanted[: len(got)], rtol=1e-12, atol=1e-12)


@MODES
def test_opcheck(training: bool) -> None:
    x, gain, bias, *_ = _inputs((2, 3, 3, 4), True, torch.float32)
    ops = torch.ops.topk_plugin
    statistics = ops.batch_statistics(x, "")
    torch.library.opcheck(ops.batch_statistics.default, (x, ""))
    arguments = (gain, bias, *statistics[:2], statistics[2] if training else None, True, "")
    torch.library.opcheck(ops.normalise_and_modulate_backward.default, (x, None, x, *arguments))
    leaves = [t.requires_grad_() for t in (x, gain, bias)]
    torch.library.opcheck(ops.normalise_and_modulate.default, (*leaves, *arguments[2:]))


@MODES
@pytest.mark.parametrize("dynamic", [False, True])
def test_compiles_as_one_graph(training: bool, dynamic: bool) -> None:
    torch._dynamo.reset()
    compiled = torch.compile(
        conditional_batch_norm_relu, fullgraph=True, backend="aot_eager", dynamic=dynamic
    )
    inputs = _inputs((2, 3, 4, 5), True, torch.float32)
    expected = _run(conditional_batch_norm_relu, inputs, training=training)
    found = _run(compiled, inputs, training=training)
    for got, wanted in zip(found, expected, strict=True):
        torch.testing.assert_close(got, wanted)
