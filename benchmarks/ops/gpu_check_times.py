"""How long an op, its reference and the compiled reference take, and the machine's limits."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils.benchmark import Timer
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.ops.gpu_check_cases import Case, Form, call, incoming_gradients


def timed(case: Case, limits: dict[str, float], *, compiled: bool) -> dict[str, Any]:
    """Milliseconds of the op, its reference and the compiled reference; the roofline's share."""
    forms = {"op": case.form, "reference": case.reference}
    row: dict[str, Any] = {}
    milliseconds: dict[str, dict[str, float]] = {}
    if compiled:
        torch._dynamo.reset()
        forms["compiled"] = torch.compile(case.reference, fullgraph=True)
    for name, form in forms.items():
        try:
            milliseconds[name] = _milliseconds(case, form)
        except Exception as error:  # torch.compile needs a C++ compiler on a CPU, for one
            if name != "compiled":
                raise
            row["compiled_raised"] = f"{type(error).__name__}: {error}".splitlines()[0]
    row["milliseconds"] = milliseconds
    roofline = _roofline_seconds(case, limits) * 1e3
    row["roofline_milliseconds"] = roofline
    row["share_of_roofline"] = roofline / milliseconds["op"]["forward"]
    return row


def _milliseconds(case: Case, form: Form) -> dict[str, float]:
    constants = [x.clone() for x in case.constants]
    inputs = [x.detach().clone().requires_grad_() for x in case.inputs]
    incoming = incoming_gradients(case, call(form, inputs, constants))

    def forward() -> None:
        with torch.no_grad():
            call(form, inputs, constants)

    def both() -> None:
        torch.autograd.grad(call(form, inputs, constants), inputs, incoming)

    device = inputs[0].device
    return {"forward": _median(forward, device), "both": _median(both, device)}


def _median(work: Callable[[], object], device: torch.device) -> float:
    """Milliseconds of one ``work``."""
    if device.type == "cuda":
        from triton.testing import do_bench  # empties the GPU's cache before every run

        return float(do_bench(work, return_mode="median"))
    timer = Timer("work()", globals={"work": work}, num_threads=torch.get_num_threads())
    return timer.blocked_autorange(min_run_time=0.01).median * 1e3


def _roofline_seconds(case: Case, limits: dict[str, float]) -> float:
    """What the forward pass takes at least on this machine."""
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        results = call(case.form, case.inputs, [x.clone() for x in case.constants])
    read = _bytes(case.inputs) * case.read_share + _bytes(case.constants)
    seconds_of_bytes = (read + _bytes(results)) / limits["bytes_per_second"]
    return max(seconds_of_bytes, counter.get_total_flops() / limits["operations_per_second"])


def _bytes(tensors: list[Tensor]) -> int:
    return sum(x.numel() * x.element_size() for x in tensors)


def limits_of(device: torch.device, dtype: torch.dtype) -> dict[str, float]:
    """Bytes per second of a large copy, operations per second of a large matrix product."""
    on_gpu = device.type == "cuda"
    source = torch.ones(2**28 if on_gpu else 2**22, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    copy = _median(lambda: target.copy_(source), device) / 1e3
    n = 4096 if on_gpu else 128
    factor = torch.randn(n, n, device=device).to(dtype)
    product = torch.empty_like(factor)
    multiply = _median(lambda: torch.mm(factor, factor, out=product), device) / 1e3
    return {
        "bytes_per_second": 2 * source.numel() / copy,
        "operations_per_second": 2 * n**3 / multiply,
    }
