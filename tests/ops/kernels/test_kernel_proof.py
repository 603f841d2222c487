"""A kernel that raises or is wrong is not used, and one line says so."""

import warnings
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from topk_plugin.ops import kernel_proof
from topk_plugin.ops.batch_norm_reference import conditional_batch_norm_relu_reference
from topk_plugin.ops.conditional_batch_norm import conditional_batch_norm_relu
from topk_plugin.ops.dispatch import OPS
from topk_plugin.ops.gate_rows import gate_rows, gate_rows_reference
from topk_plugin.ops.kernel_proof import KernelWarning


@pytest.fixture(autouse=True)
def _nothing_is_proven(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(kernel_proof, "_proven", {})
    for op in ("gate_rows", "conditional_batch_norm_relu"):
        monkeypatch.setitem(OPS, op, ("triton", "triton", "triton"))
    yield
    torch._dynamo.reset()


def _norm(op, channels_last: bool = False, training: bool = True) -> list[Tensor]:
    x = torch.arange(120.0).cos().view(2, 3, 4, 5)
    if channels_last:
        x = x.contiguous(memory_format=torch.channels_last)
    leaves = [t.requires_grad_() for t in (x, torch.ones(2, 3), torch.zeros(2, 3))]
    result = op(*leaves, torch.zeros(3), torch.ones(3), training=training, momentum=0.1, eps=1e-4)
    return [result.detach(), *torch.autograd.grad(result.square().sum(), leaves)]


def _gate(op) -> Tensor:
    return op(torch.arange(12.0).view(4, 3), torch.tensor([0.0, 2.0, 0.0, 1.0]))


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_right_kernels_prove_themselves_once_a_dtype_and_layout(dtype, monkeypatch) -> None:
    looked_at = []
    look = kernel_proof._fault
    monkeypatch.setattr(
        kernel_proof, "_fault", lambda *which: looked_at.append(which[1:]) or look(*which)
    )
    for _ in range(2):
        gate_rows(torch.ones(4, 3, dtype=dtype), torch.ones(4))
    assert looked_at == [(torch.device("cpu"), dtype, False)]
    if dtype in (torch.float32, torch.float64):
        for channels_last in (False, True, False):
            _norm(conditional_batch_norm_relu, channels_last)
    assert all(kernel_proof._proven.values())


def _raises(*arguments: object, **options: object) -> None:
    raise RuntimeError("no kernel image is available\nfor execution on the device")


def test_a_kernel_that_raises_is_replaced_by_the_reference(monkeypatch) -> None:
    from topk_plugin.ops.kernels import conditional_batch_norm_triton, gate_rows_triton

    monkeypatch.setattr(gate_rows_triton, "gate_rows", _raises)
    monkeypatch.setattr(conditional_batch_norm_triton, "backward", _raises)
    message = (
        r"kernel of gate_rows is not used on cpu for torch.float32: .*raised RuntimeError \(no "
        r"kernel image is available\).*gpu_check --ops gate_rows --no-times"
    )
    with pytest.warns(KernelWarning, match=message) as caught:
        assert torch.equal(_gate(gate_rows), _gate(gate_rows_reference))
    assert len(caught) == 1
    assert "\n" not in str(caught[0].message)
    with pytest.warns(KernelWarning, match="kernel of conditional_batch_norm_relu is not used"):
        found = _norm(conditional_batch_norm_relu)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # once was enough
        _gate(gate_rows)
        found = _norm(conditional_batch_norm_relu)
    for got, wanted in zip(found, _norm(conditional_batch_norm_relu_reference), strict=True):
        assert torch.equal(got, wanted)


@pytest.mark.parametrize("wrong", ["batch_statistics", "forward", "backward_sums", "backward"])
def test_a_kernel_that_is_wrong_is_replaced_by_the_reference(wrong: str, monkeypatch) -> None:
    from topk_plugin.ops.kernels import conditional_batch_norm_triton as kernels

    right = getattr(kernels, wrong)

    def off_by_a_thousandth(*arguments: object) -> object:
        result = right(*arguments)
        for tensor in result if isinstance(result, tuple) else (result,):
            tensor.mul_(1.001)
        return result

    monkeypatch.setattr(kernels, wrong, off_by_a_thousandth)
    with pytest.warns(KernelWarning, match=r"on a small input its \w+( \w+)? is off by 1e-0[34]"):
        found = _norm(conditional_batch_norm_relu)
    for got, wanted in zip(found, _norm(conditional_batch_norm_relu_reference), strict=True):
        assert torch.equal(got, wanted)


def test_nan_is_wrong(monkeypatch) -> None:
    from topk_plugin.ops.kernels import gate_rows_triton

    monkeypatch.setattr(gate_rows_triton, "gate_rows", lambda g, w: torch.full_like(g, torch.nan))
    with pytest.warns(KernelWarning, match="off by nan"):
        assert torch.equal(_gate(gate_rows), _gate(gate_rows_reference))


@pytest.mark.filterwarnings("error")
def test_the_first_use_may_be_in_a_backward_pass_under_autocast_or_in_compiled_code() -> None:
    from topk_plugin import gradient_gate

    x = torch.ones(4, 3, requires_grad=True)
    gradient_gate(x, torch.tensor([0.0, 1.0, 2.0, 0.0])).sum().backward()
    assert x.grad is not None
    assert x.grad[:, 0].tolist() == [0, 1, 2, 0]
    with torch.autocast("cpu", torch.bfloat16), torch.inference_mode():
        _gate(gate_rows)
    compiled = torch.compile(conditional_batch_norm_relu, fullgraph=True, backend="aot_eager")
    found, wanted = _norm(compiled), _norm(conditional_batch_norm_relu_reference)
    for a, b in zip(found, wanted, strict=True):
        torch.testing.assert_close(a, b)
    assert all(kernel_proof._proven.values())
    assert len(kernel_proof._proven) == 2


def test_without_proofs_a_wrong_kernel_is_used(monkeypatch) -> None:
    from topk_plugin.ops.kernels import gate_rows_triton

    monkeypatch.setattr(gate_rows_triton, "gate_rows", lambda g, w: torch.full_like(g, 7))
    with kernel_proof.without_proofs():
        assert _gate(gate_rows).unique().tolist() == [7]
