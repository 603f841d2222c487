"""The kernel that weights rows, in triton's interpreter, against the formula."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from topk_plugin import gradient_gate
from topk_plugin.ops.dispatch import OPS
from topk_plugin.ops.gate_rows import gate_rows_reference

in_one_pass = torch.ops.topk_plugin.gate_rows_in_one_pass

# The interpreter cuts bits off where a GPU rounds to bfloat16: half of the last bit becomes all
# of it (2**-7 of the value).
TOLERANCE = {torch.float64: 0.0, torch.float32: 0.0, torch.float16: 0.0, torch.bfloat16: 2**-7}


def _inputs(shape: tuple[int, ...], leading: int = 1, dtype: torch.dtype = torch.float32):
    random = torch.Generator().manual_seed(sum(shape))
    gradient = torch.randn(shape, generator=random, dtype=torch.float64).to(dtype)
    weights = torch.randn(shape[:leading], generator=random).clamp_min(0)
    return gradient, weights


def _check(gradient: Tensor, weights: Tensor) -> None:
    result, expected = in_one_pass(gradient, weights), gate_rows_reference(gradient, weights)
    assert result.dtype == gradient.dtype
    tolerance = TOLERANCE[gradient.dtype]
    torch.testing.assert_close(result, expected, rtol=tolerance, atol=0, equal_nan=True)


@settings(max_examples=30, deadline=None)
@given(
    shape=st.lists(st.integers(0, 7), min_size=1, max_size=4).map(tuple),
    data=st.data(),
    dtype=st.sampled_from(list(TOLERANCE)),
)
def test_any_shape_and_dtype(shape, data, dtype) -> None:
    _check(*_inputs(shape, data.draw(st.integers(0, len(shape))), dtype))


@pytest.mark.parametrize("row_size", [1, 1023, 1024, 1025, 2500])
def test_rows_at_the_edges_of_blocks(row_size: int) -> None:
    _check(*_inputs((3, row_size)))


@pytest.mark.parametrize("weights_dtype", [torch.float64, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16])
def test_weights_of_another_dtype(dtype: torch.dtype, weights_dtype: torch.dtype) -> None:
    gradient, weights = _inputs((5, 33), dtype=dtype)
    _check(gradient, weights.to(weights_dtype))


@pytest.mark.parametrize("dtype", list(TOLERANCE))
def test_rows_of_weight_0_are_exact_zeros_and_the_others_hide_nothing(dtype: torch.dtype) -> None:
    gradient = torch.tensor([[math.inf, -math.inf, math.nan, 1.0]] * 4, dtype=dtype)
    weights = torch.tensor([0.0, -0.0, 1.0, math.nan])
    result = in_one_pass(gradient, weights)
    assert torch.equal(result[:2], torch.zeros(2, 4, dtype=dtype))
    assert result[2].isnan().tolist() == [False, False, True, False]
    assert result[2, :2].tolist() == [math.inf, -math.inf]
    assert result[3].isnan().all()


def test_rows_of_weight_0_are_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    from triton.runtime import interpreter

    read = []
    load = interpreter._interpreter.load

    def watched(pointers, mask, *rest):
        read.extend(pointers[mask].tolist())
        return load(pointers, mask, *rest)

    monkeypatch.setattr(interpreter._interpreter, "load", watched, raising=True)
    gradient = torch.randn(4, 1500)
    in_one_pass(gradient, torch.tensor([0.0, 2.0, 0.0, 1.0]))
    first = gradient.data_ptr()
    elements = sorted((p - first) // 4 for p in read if 0 <= p - first < 4 * gradient.numel())
    assert elements == [*range(1500, 3000), *range(4500, 6000)]  # once each


LAYOUTS = {
    "contiguous": lambda t: t,
    "channels-last": lambda t: t.to(memory_format=torch.channels_last),
    "height and width swapped": lambda t: t.transpose(2, 3),
    "rows with gaps": lambda t: t[:, 1:],
    "every second row": lambda t: t[::2],
    "rows apart": lambda t: t.transpose(0, 1),
    "one value": lambda t: t[:1, :1, :1, :1].expand(t.shape),
}


@pytest.mark.parametrize("layout", list(LAYOUTS))
@pytest.mark.parametrize("leading", [0, 1, 2])
def test_memory_formats(layout: str, leading: int) -> None:
    gradient = LAYOUTS[layout](_inputs((4, 3, 5, 2))[0])
    weights = torch.randn(gradient.shape[:leading]).clamp_min(0)
    _check(gradient, weights)
    if layout in ("contiguous", "channels-last", "height and width swapped") and leading < 2:
        assert in_one_pass(gradient, weights).stride() == gradient.stride()


def test_weights_with_gaps() -> None:
    gradient, _ = _inputs((4, 3))
    _check(gradient, torch.arange(8.0)[::2])
    _check(gradient, torch.tensor(2.0).expand(4))


@pytest.mark.parametrize("layout", list(LAYOUTS))
def test_opcheck(layout: str) -> None:
    gradient = LAYOUTS[layout](_inputs((4, 3, 5, 2))[0]).requires_grad_()
    weights = torch.randn(gradient.shape[:1]).clamp_min(0)
    torch.library.opcheck(in_one_pass.default, (gradient, weights))


def test_derivatives_of_any_order() -> None:
    gradient, weights = (t.double() for t in _inputs((4, 3)))
    gradient.requires_grad_()
    assert torch.autograd.gradcheck(lambda g: in_one_pass(g, weights), gradient)
    assert torch.autograd.gradgradcheck(lambda g: in_one_pass(g, weights), gradient)


def test_the_gate_with_the_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(OPS, "gate_rows", ("triton", "triton", "triton"))
    x, weights = (t.double() for t in _inputs((4, 3)))
    x.requires_grad_()
    (first,) = torch.autograd.grad(gradient_gate(x, weights).pow(3).sum(), x, create_graph=True)
    assert "in_one_pass" in first.grad_fn.name()
    (second,) = torch.autograd.grad(first.sum(), x)
    torch.testing.assert_close(second, 6 * x.detach() * weights[:, None] ** 2)


def test_traced_as_one_graph() -> None:
    torch._dynamo.reset()
    gradient, weights = _inputs((4, 3, 2, 2))
    gradient.requires_grad_()
    compiled = torch.compile(
        lambda g, w: in_one_pass(g * 2, w), fullgraph=True, backend="aot_eager"
    )
    result = compiled(gradient, weights)
    assert torch.equal(result, gate_rows_reference(gradient * 2, weights))
    (got,) = torch.autograd.grad(result.sum(), gradient)
    assert torch.equal(got, gate_rows_reference(torch.full_like(gradient, 2.0), weights))
