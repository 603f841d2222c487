"""Convolutions with the resampling folded into them, against the two operations one by one."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from topk_plugin.ops.folded_convolution import (
    conv3x3_avgpool,
    conv3x3_avgpool_reference,
    upsample_conv3x3,
    upsample_conv3x3_reference,
)

OPS = pytest.mark.parametrize(
    ("op", "reference"),
    [
        (upsample_conv3x3, upsample_conv3x3_reference),
        (conv3x3_avgpool, conv3x3_avgpool_reference),
    ],
    ids=["upsample_conv3x3", "conv3x3_avgpool"],
)
FORMATS = pytest.mark.parametrize("channels_last", [False, True])

EVERY_CASE = {
    "batch": st.integers(1, 3),
    "channels": st.tuples(st.integers(1, 5), st.integers(1, 5)),
    "sizes": st.tuples(st.integers(2, 9), st.integers(2, 9)),
    "has_bias": st.booleans(),
    "channels_last": st.booleans(),
    "seed": st.integers(0, 2**31),
}


def _inputs(
    batch: int,
    channels: tuple[int, int],
    sizes: tuple[int, int],
    has_bias: bool = True,
    channels_last: bool = True,
    seed: int = 0,
) -> list[Tensor | None]:
    generator = torch.Generator().manual_seed(seed)
    memory_format = torch.channels_last if channels_last else torch.contiguous_format

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, dtype=torch.float64, generator=generator)

    fan_in, fan_out = channels
    x = draw(batch, fan_in, *sizes).contiguous(memory_format=memory_format)
    weight = draw(fan_out, fan_in, 3, 3).contiguous(memory_format=memory_format)
    inputs = [x, weight, draw(fan_out) if has_bias else None]
    return [t if t is None else t.requires_grad_() for t in inputs]


def _gradients(result: Tensor, inputs: list[Tensor | None]) -> tuple[Tensor, ...]:
    generator = torch.Generator().manual_seed(1)
    incoming = torch.randn(result.shape, dtype=torch.float64, generator=generator).to(result.dtype)
    return torch.autograd.grad(result, [t for t in inputs if t is not None], incoming)


def _relative_error(result: Tensor, expected: Tensor) -> float:
    assert result.shape == expected.shape
    assert result.dtype == expected.dtype
    return ((result - expected).abs().max() / expected.abs().max()).item()


@OPS
@given(**EVERY_CASE)
def test_equals_the_two_operations(op, reference, **case) -> None:
    inputs = _inputs(**case)
    result, expected = op(*inputs), reference(*inputs)
    assert _relative_error(result, expected) < 2e-14
    for got, wanted in zip(_gradients(result, inputs), _gradients(expected, inputs), strict=True):
        assert _relative_error(got, wanted) < 1e-13


@OPS
@FORMATS
@pytest.mark.parametrize("sizes", [(16, 16), (15, 17)])
def test_equals_the_two_operations_with_many_channels(
    op, reference, channels_last: bool, sizes: tuple[int, int]
) -> None:
    inputs = _inputs(2, (64, 48), sizes, channels_last=channels_last)
    result, expected = op(*inputs), reference(*inputs)
    assert _relative_error(result, expected) < 2e-14
    for got, wanted in zip(_gradients(result, inputs), _gradients(expected, inputs), strict=True):
        assert _relative_error(got, wanted) < 1e-13


@pytest.mark.parametrize("sizes", [(1, 1), (1, 4), (3, 1)])
def test_upsampling_of_single_rows_and_columns(sizes: tuple[int, int]) -> None:
    inputs = _inputs(2, (3, 4), sizes)
    result, expected = upsample_conv3x3(*inputs), upsample_conv3x3_reference(*inputs)
    assert _relative_error(result, expected) < 2e-14
    for got, wanted in zip(_gradients(result, inputs), _gradients(expected, inputs), strict=True):
        assert _relative_error(got, wanted) < 1e-13


@OPS
def test_an_empty_batch(op, reference) -> None:
    inputs = _inputs(0, (3, 4), (4, 6))
    assert op(*inputs).shape == reference(*inputs).shape


@OPS
def test_a_part_of_a_larger_tensor(op, reference) -> None:
    x, weight, bias = _inputs(2, (6, 4), (9, 8))
    x, weight = x[:, ::2, 1:, :-1], weight[:, ::2]
    assert _relative_error(op(x, weight, bias), reference(x, weight, bias)) < 2e-14


@OPS
@pytest.mark.parametrize("sizes", [(2, 3), (4, 2)])
def test_gradients_by_finite_differences(op, reference, sizes: tuple[int, int]) -> None:
    inputs = _inputs(2, (2, 3), sizes)
    assert torch.autograd.gradcheck(op, inputs)
    assert torch.autograd.gradgradcheck(op, inputs)


@OPS
@FORMATS
def test_the_memory_format_is_kept(op, reference, channels_last: bool) -> None:
    inputs = _inputs(2, (3, 4), (6, 4), channels_last=channels_last)
    result, expected = op(*inputs), reference(*inputs)
    assert result.stride() == expected.stride()
    if channels_last:  # also of the gradients; else torch leaves it to the convolution
        gradients = zip(_gradients(result, inputs), _gradients(expected, inputs), strict=True)
        assert all(got.stride() == wanted.stride() for got, wanted in gradients)


@OPS
def test_float32(op, reference) -> None:
    inputs = _inputs(2, (32, 32), (16, 16))
    single = [t.detach().float().requires_grad_() for t in inputs]
    result, expected = op(*single), reference(*inputs)
    assert _relative_error(result.double(), expected) < 1e-6
    for got, wanted in zip(_gradients(result, single), _gradients(expected, inputs), strict=True):
        assert _relative_error(got.double(), wanted) < 2e-6


# Both sides of the sizes from which 16-bit convolutions are folded.
@OPS
@pytest.mark.parametrize("size", [6, 34])
@pytest.mark.parametrize("autocast", [False, True])
def test_bfloat16(op, reference, size: int, autocast: bool) -> None:
    inputs = _inputs(2, (16, 16), (size, size))
    dtype = torch.float32 if autocast else torch.bfloat16
    low = [t.detach().to(dtype).requires_grad_() for t in inputs]
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        result = op(*low)
    assert result.dtype == torch.bfloat16
    expected = reference(*inputs)
    assert _relative_error(result.double(), expected) < 2e-2
    for got, wanted in zip(_gradients(result, low), _gradients(expected, inputs), strict=True):
        assert got.dtype == dtype
        assert _relative_error(got.double(), wanted) < 2e-2


@OPS
@pytest.mark.parametrize("autocast", [False, True])
def test_the_weight_is_rounded_after_folding(
    op, reference, autocast: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    x, weight, _ = _inputs(1, (4, 4), (32, 32))
    x, weight = x.detach().float(), weight.detach().float()
    if not autocast:
        x, weight = x.bfloat16(), weight.bfloat16()
    kernels, convolve = [], F.conv2d

    def recording_conv2d(x: Tensor, kernel: Tensor, *args, **options) -> Tensor:
        kernels.append(kernel)
        return convolve(x, kernel, *args, **options)

    monkeypatch.setattr(F, "conv2d", recording_conv2d)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        op(x, weight)
    rounded = list(kernels)
    kernels.clear()
    op(x.double(), weight.double())
    assert rounded
    for kernel, exact in zip(rounded, kernels, strict=True):
        assert kernel.shape[2] != 3  # folded, not the reference
        assert kernel.dtype == weight.dtype
        if autocast:  # torch rounds it on its way into the convolution
            assert _relative_error(kernel.double(), exact) < 2e-7
        else:
            assert torch.equal(kernel, exact.float().bfloat16())


def test_multiplications_are_saved_where_they_should_be(monkeypatch: pytest.MonkeyPatch) -> None:
    """The folded kernels are smaller, and so is the image that they meet."""
    seen, convolve = [], F.conv2d

    def recording_conv2d(x: Tensor, kernel: Tensor, *args, **options) -> Tensor:
        result = convolve(x, kernel, *args, **options)
        seen.append(result.numel() * kernel[0].numel())
        return result

    monkeypatch.setattr(F, "conv2d", recording_conv2d)
    x, weight, bias = _inputs(1, (8, 8), (16, 16))

    def multiplications(op) -> int:
        seen.clear()
        op(x, weight, bias)
        return sum(seen)

    reference = multiplications(upsample_conv3x3_reference)
    # two rows and columns of which one is dropped
    assert multiplications(upsample_conv3x3) * 36 * 16**2 == reference * 16 * 17**2
    reference = multiplications(conv3x3_avgpool_reference)
    assert multiplications(conv3x3_avgpool) * 36 == reference * 16


@OPS
def test_the_references_can_be_forced(op, reference, monkeypatch: pytest.MonkeyPatch) -> None:
    inputs = _inputs(2, (16, 16), (16, 16))
    single = [t.detach().float() for t in inputs]
    assert not torch.equal(op(*single), reference(*single))
    monkeypatch.setenv("TOPK_PLUGIN_OPS", "reference")
    assert torch.equal(op(*single), reference(*single))


@OPS
@FORMATS
def test_opcheck(op, reference, channels_last: bool) -> None:
    registered = getattr(torch.ops.topk_plugin, op.__name__).default
    torch.library.opcheck(registered, _inputs(2, (3, 4), (5, 4), channels_last=channels_last))


@OPS
@pytest.mark.parametrize("dynamic", [False, True])
@pytest.mark.parametrize("autocast", [False, True])
def test_compiles_as_one_graph(op, reference, dynamic: bool, autocast: bool) -> None:
    torch._dynamo.reset()
    inputs = _inputs(2, (3, 4), (6, 5))
    if autocast:
        inputs = [t.detach().float().requires_grad_() for t in inputs]

    def run(*tensors: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            return op(*tensors)

    compiled = torch.compile(run, fullgraph=True, backend="aot_eager", dynamic=dynamic)
    result, expected = compiled(*inputs), run(*inputs)
    tolerance = 1e-2 if autocast else 2e-14
    assert _relative_error(result, expected) < tolerance
    for got, wanted in zip(_gradients(result, inputs), _gradients(expected, inputs), strict=True):
        assert _relative_error(got, wanted) < 5 * tolerance


@OPS
@pytest.mark.parametrize(
    "shapes",
    [
        [(2, 3, 4, 4), (5, 2, 3, 3), (5,)],
        [(2, 3, 4, 4), (5, 3, 1, 1), (5,)],
        [(2, 3, 4, 4), (5, 3, 3, 3), (3,)],
        [(2, 3, 4, 4), (5, 3, 3), None],
    ],
)
def test_shapes_that_do_not_fit_are_named(op, reference, shapes) -> None:
    tensors = [None if shape is None else torch.zeros(shape) for shape in shapes]
    with pytest.raises(ValueError, match=r"x \[2, 3, 4, 4\], weight .* do not fit; allowed"):
        op(*tensors)


@pytest.mark.parametrize("sizes", [(1, 4), (4, 1)])
def test_too_small_to_pool(sizes: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match=r"x is \[2, 3, .*\]; pooling needs .* at least 2 pixels"):
        conv3x3_avgpool(*_inputs(2, (3, 4), sizes))
