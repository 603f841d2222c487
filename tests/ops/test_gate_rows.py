"""The gate's backward pass against its formula, on odd shapes, layouts and values."""

import math
import subprocess
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from topk_plugin import gradient_gate
from topk_plugin.ops.dispatch import OPS
from topk_plugin.ops.gate_rows import gate_rows, gate_rows_reference
from topk_plugin.ops.kernel_proof import without_proofs

DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16]


def _inputs(shape: tuple[int, ...], leading: int = 1, seed: int = 0) -> tuple[Tensor, Tensor]:
    """A gradient and weights in float64, about half of which are 0."""
    random = torch.Generator().manual_seed(seed)
    gradient = torch.randn(shape, dtype=torch.float64, generator=random)
    weights = torch.randn(shape[:leading], dtype=torch.float64, generator=random).clamp_min(0)
    return gradient, weights


@settings(max_examples=60, deadline=None)
@given(
    shape=st.lists(st.integers(1, 5), min_size=1, max_size=4).map(tuple),
    data=st.data(),
    dtype=st.sampled_from(DTYPES),
    weights_dtype=st.sampled_from(DTYPES),
)
def test_every_row_is_its_weight_times_itself(shape, data, dtype, weights_dtype) -> None:
    leading = data.draw(st.integers(0, len(shape)))
    gradient, weights = _inputs(shape, leading)
    gradient, weights = gradient.to(dtype), weights.to(weights_dtype)
    result = gate_rows(gradient, weights)
    assert result.dtype == dtype
    assert torch.equal(result, gate_rows_reference(gradient, weights))
    wide = torch.promote_types(dtype, weights_dtype)
    rows = gradient.reshape(weights.numel(), -1)
    for row, weight, got in zip(rows, weights.flatten(), result.reshape(rows.shape), strict=True):
        assert torch.equal(got, (row.to(wide) * weight.to(wide)).to(dtype))


@pytest.mark.parametrize("form", [gate_rows, gate_rows_reference])
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_weight_of_0_gives_an_exact_0_and_another_weight_hides_nothing(form, dtype) -> None:
    gradient = torch.tensor([[math.inf, -math.inf, math.nan, 1.0]] * 4, dtype=dtype)
    result = form(gradient, torch.tensor([0.0, -0.0, 1.0, math.nan]))
    assert torch.equal(result[:2], torch.zeros(2, 4, dtype=dtype))
    torch.testing.assert_close(result[2], gradient[2], rtol=0, atol=0, equal_nan=True)
    assert result[3].isnan().all()


def test_the_incoming_gradient_is_not_changed() -> None:
    gradient, weights = _inputs((4, 3))
    kept = gradient.clone()
    gate_rows(gradient, torch.ones_like(weights))
    gate_rows(gradient, weights)
    assert torch.equal(gradient, kept)


def test_gradients_of_both_inputs_by_finite_differences() -> None:
    gradient, _ = _inputs((4, 2, 3))
    # no weight of 0: a finite difference would step over to the product there
    weights = torch.tensor([0.5, -1.0, 2.0, 1.5], dtype=torch.float64)
    inputs = (gradient.requires_grad_(), weights.requires_grad_())
    assert torch.autograd.gradcheck(gate_rows, inputs)
    assert torch.autograd.gradgradcheck(gate_rows, inputs)


def test_gradients_are_those_of_the_reference() -> None:
    gradient, weights = _inputs((5, 3, 2))
    assert (weights == 0).any()
    incoming = torch.randn(gradient.shape, dtype=torch.float64)
    found = []
    for form in (gate_rows, gate_rows_reference):
        inputs = [t.clone().requires_grad_() for t in (gradient, weights)]
        found.append(torch.autograd.grad(form(*inputs), inputs, incoming))
    for got, wanted in zip(*found, strict=True):
        torch.testing.assert_close(got, wanted, rtol=1e-13, atol=1e-13)


def test_its_derivative_is_itself() -> None:
    gradient, weights = _inputs((5, 3))
    gradient.requires_grad_()
    incoming = torch.randn(5, 3, dtype=torch.float64)
    (got,) = torch.autograd.grad(gate_rows(gradient, weights), gradient, incoming)
    assert torch.equal(got, gate_rows(incoming, weights))


@pytest.mark.filterwarnings("error")  # torch warns where it loops over the batch
def test_batches_under_vmap() -> None:
    gradient, weights = _inputs((4, 3, 2), leading=2)
    expected = gate_rows_reference(gradient, weights)
    assert torch.equal(torch.func.vmap(gate_rows)(gradient, weights), expected)
    several = torch.stack((gradient, 2 * gradient), 1)
    result = torch.func.vmap(gate_rows, in_dims=(1, None))(several, weights)
    assert torch.equal(result, torch.stack((expected, 2 * expected)))


@pytest.mark.filterwarnings("error")
def test_several_gradients_at_once_pass_the_gate() -> None:
    gradients, weights = torch.randn(5, 4, 3), torch.tensor([0.0, 1.0, 2.0, 0.0])
    x = torch.zeros(4, 3, requires_grad=True)
    (result,) = torch.autograd.grad(gradient_gate(x, weights), x, gradients, is_grads_batched=True)
    assert torch.equal(result, gradients * weights[:, None])


def test_channels_last_stays_channels_last() -> None:
    gradient, weights = _inputs((3, 4, 5, 2))
    result = gate_rows(gradient.to(memory_format=torch.channels_last), weights)
    assert result.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(result, gate_rows(gradient, weights))


def test_autocast_changes_nothing() -> None:
    gradient, weights = (t.float() for t in _inputs((4, 3)))
    with torch.autocast("cpu", torch.bfloat16):
        result = gate_rows(gradient, weights)
    assert torch.equal(result, gate_rows(gradient, weights))


def test_the_references_can_be_forced(monkeypatch: pytest.MonkeyPatch) -> None:
    gradient, weights = _inputs((4, 3))
    names = []
    for value in ("reference", "auto"):
        monkeypatch.setenv("TOPK_PLUGIN_OPS", value)
        names.append(gate_rows(gradient.requires_grad_(), weights).grad_fn.name())
    assert names[0].startswith("Where")
    assert names[1].startswith("MaskedFill")


def test_opcheck() -> None:
    gradient, weights = _inputs((4, 3, 2, 2))
    torch.library.opcheck(
        torch.ops.topk_plugin.gate_rows.default, (gradient.requires_grad_(), weights)
    )


@pytest.mark.parametrize("dynamic", [False, True])
def test_compiles_as_one_graph(dynamic: bool) -> None:
    torch._dynamo.reset()
    gradient, weights = _inputs((4, 3, 2, 2))
    gradient.requires_grad_()
    compiled = torch.compile(gate_rows, fullgraph=True, backend="aot_eager", dynamic=dynamic)
    result = compiled(gradient, weights)
    assert torch.equal(result, gate_rows_reference(gradient, weights))
    (got,) = torch.autograd.grad(result, gradient, torch.ones_like(result))
    assert torch.equal(got, gate_rows_reference(torch.ones_like(gradient), weights))


def test_meta_tensors_have_a_result() -> None:
    result = gate_rows(
        torch.empty(4, 3, dtype=torch.bfloat16, device="meta"), torch.empty(4, device="meta")
    )
    assert (result.shape, result.dtype, result.device.type) == ((4, 3), torch.bfloat16, "meta")


def test_on_a_gpu_the_kernel_is_taken_unless_torch_compiles_or_weights_want_a_gradient(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from topk_plugin.ops import gate_rows as module

    calls = []
    monkeypatch.setitem(OPS, "gate_rows", ("triton", "triton", "triton"))
    monkeypatch.setattr(
        module.torch.ops.topk_plugin,
        "gate_rows_in_one_pass",
        lambda *inputs: calls.append(1) or gate_rows_reference(*inputs),
    )
    gradient, weights = _inputs((4, 3))
    with without_proofs():
        gate_rows(gradient, weights)
    assert calls == [1]
    gate_rows(gradient, weights.clone().requires_grad_())
    torch._dynamo.reset()
    torch.compile(gate_rows, fullgraph=True, backend="aot_eager")(gradient, weights)
    assert calls == [1]


def test_weights_that_do_not_fit_are_named() -> None:
    with pytest.raises(ValueError, match=r"\[3\] do not fit samples of shape \[2, 4\]"):
        gate_rows(torch.zeros(2, 4), torch.ones(3))
    with pytest.raises(ValueError, match="one weight a sample"):
        gate_rows(torch.zeros(2), torch.ones(2, 1))


def test_the_package_imports_no_triton() -> None:
    code = (
        "import sys, topk_plugin, torch; from topk_plugin.ops.gate_rows import gate_rows; "
        "gate_rows(torch.ones(2, 2), torch.ones(2)); "
        "print([m for m in ('triton', 'torch._dynamo') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
