"""Self-attention against its formula, in both of its forms, on odd shapes and layouts."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from topk_plugin.ops.attention import (
    _by_fused_attention,
    _by_products,
    self_attention_2d,
    self_attention_2d_reference,
)

FORMS = pytest.mark.parametrize(
    "form", [self_attention_2d, _by_products, _by_fused_attention], ids=lambda form: form.__name__
)


def _inputs(
    n: int, channels: int, value_channels: int, queries: int, positions: int, channels_last: bool
) -> list[Tensor]:
    random = torch.Generator().manual_seed(n + 7 * channels + queries)
    shapes = [(n, channels, queries), (n, channels, positions), (n, value_channels, positions)]
    tensors = [torch.randn(s, dtype=torch.float64, generator=random) for s in shapes]
    if channels_last:
        tensors = [t.transpose(1, 2).contiguous().transpose(1, 2) for t in tensors]
    return [t.requires_grad_() for t in tensors]


@FORMS
@settings(max_examples=25, deadline=None)
@given(
    sizes=st.tuples(*[st.integers(1, 9)] * 4, st.integers(1, 17)),
    channels_last=st.booleans(),
)
def test_values_and_gradients_are_those_of_the_reference(form, sizes, channels_last) -> None:
    inputs = _inputs(*sizes, channels_last)
    expected = self_attention_2d_reference(*inputs)
    result = form(*inputs)
    torch.testing.assert_close(result, expected, rtol=1e-13, atol=1e-13)
    incoming = torch.randn_like(expected)
    for got, wanted in zip(
        torch.autograd.grad(result, inputs, incoming),
        torch.autograd.grad(expected, inputs, incoming),
        strict=True,
    ):
        torch.testing.assert_close(got, wanted, rtol=1e-12, atol=1e-12)


def test_the_reference_is_an_explicit_softmax() -> None:
    query, key, value = _inputs(2, 3, 4, 5, 6, False)
    result = self_attention_2d_reference(query, key, value)
    for n in range(2):
        for position in range(5):
            scores = torch.stack([query[n, :, position] @ key[n, :, j] for j in range(6)]).exp()
            torch.testing.assert_close(result[n, :, position], value[n] @ (scores / scores.sum()))


@FORMS
def test_gradients_by_finite_differences(form) -> None:
    assert torch.autograd.gradcheck(form, _inputs(2, 2, 3, 4, 3, False))


def test_gradients_of_gradients() -> None:
    def form(*inputs: Tensor) -> Tensor:
        return self_attention_2d(*inputs, twice_differentiable=True)

    assert torch.autograd.gradgradcheck(form, _inputs(2, 2, 3, 4, 3, False))


@FORMS
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 3e-2)])
def test_lower_precisions(form, dtype: torch.dtype, tolerance: float) -> None:
    inputs = _inputs(3, 8, 16, 64, 16, True)
    result = form(*[t.detach().to(dtype) for t in inputs])
    assert result.dtype == dtype
    expected = self_attention_2d_reference(*inputs)
    torch.testing.assert_close(result.double(), expected, rtol=tolerance, atol=tolerance)


@FORMS
def test_autocast_decides_the_precision(form) -> None:
    inputs = [t.detach().float() for t in _inputs(3, 8, 16, 64, 16, False)]
    with torch.autocast("cpu", torch.bfloat16):
        expected, result = self_attention_2d_reference(*inputs), form(*inputs)
    assert result.dtype == expected.dtype == torch.bfloat16
    torch.testing.assert_close(result, expected, rtol=3e-2, atol=3e-2)


@FORMS
def test_a_channels_last_result_from_channels_last_inputs(form) -> None:
    result = form(*_inputs(2, 3, 5, 16, 4, True)).unflatten(2, (4, 4))
    assert result.is_contiguous(memory_format=torch.channels_last)


def test_the_references_can_be_forced(monkeypatch) -> None:
    monkeypatch.setenv("TOPK_PLUGIN_OPS", "reference")
    inputs = _inputs(2, 3, 5, 16, 4, True)
    assert torch.equal(self_attention_2d(*inputs), self_attention_2d_reference(*inputs))
    # the reference's product has another memory format than the algebra's
    assert self_attention_2d(*inputs).is_contiguous()
    monkeypatch.delenv("TOPK_PLUGIN_OPS")
    assert not self_attention_2d(*inputs).is_contiguous()


@pytest.mark.parametrize("twice_differentiable", [False, True])
def test_opcheck(twice_differentiable: bool) -> None:
    inputs = _inputs(2, 3, 5, 16, 4, True)
    torch.library.opcheck(
        torch.ops.topk_plugin.self_attention_2d.default, (*inputs, twice_differentiable)
    )


def test_compiles_as_one_graph() -> None:
    inputs = _inputs(2, 3, 5, 16, 4, True)
    compiled = torch.compile(self_attention_2d, fullgraph=True, backend="aot_eager")
    result, expected = compiled(*inputs), self_attention_2d_reference(*inputs)
    torch.testing.assert_close(result, expected, rtol=1e-13, atol=1e-13)
    for got, wanted in zip(
        torch.autograd.grad(result.sum(), inputs),
        torch.autograd.grad(expected.sum(), inputs),
        strict=True,
    ):
        torch.testing.assert_close(got, wanted, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    "shapes",
    [
        [(2, 3, 4), (1, 3, 4), (2, 5, 4)],
        [(2, 3, 4), (2, 2, 4), (2, 5, 4)],
        [(2, 3, 4), (2, 3, 4), (2, 5, 6)],
        [(2, 3, 4, 4), (2, 3, 4), (2, 5, 4)],
    ],
)
def test_shapes_that_do_not_fit_are_named(shapes: list[tuple[int, ...]]) -> None:
    with pytest.raises(ValueError, match=r"query \[2, 3, 4.*do not fit; allowed"):
        self_attention_2d(*[torch.zeros(shape) for shape in shapes])
