import warnings

import pytest
import torch
from torch import nn

from topk_plugin.studiogan.fixes import amp
from topk_plugin.studiogan.fixes.amp import FIX


@pytest.mark.parametrize(
    ("units", "warned"),
    [(("avx2", "avx512f"), True), (("avx2", "amx_bf16"), False), (("bf16",), False), ((), False)],
)
def test_a_cpu_that_emulates_bf16_is_told(
    units: tuple[str, ...], warned: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert FIX.around_worker is not None
    monkeypatch.setattr(amp, "cpu_units", lambda: units)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with FIX.around_worker(), warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        torch.cuda.amp.GradScaler(enabled=False)
        assert not said
        torch.cuda.amp.GradScaler()
    assert ["leave -mpc out" in str(warning.message) for warning in said] == [True] * warned


def test_studiogans_calls_act_and_warn_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(amp, "cpu_units", lambda: ("amx_bf16",))
    assert FIX.around_worker is not None
    gpu = torch.cuda.is_available()
    device = "cuda" if gpu else "cpu"
    with FIX.around_worker(), warnings.catch_warnings():
        warnings.simplefilter("error")
        network = nn.Linear(4, 1).to(device)
        optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
        scaler = torch.cuda.amp.GradScaler()
        assert isinstance(scaler, torch.amp.GradScaler)
        assert scaler.is_enabled()
        with torch.cuda.amp.autocast():
            loss = network(torch.ones(2, 4, device=device)).mean()
        assert loss.dtype == (torch.float16 if gpu else torch.bfloat16)
        with torch.cuda.amp.autocast(enabled=False):
            assert network(torch.ones(2, 4, device=device)).dtype == torch.float32
        before = network.weight.clone()
        scaler.scale(loss).backward()
        scaler.unscale_(optimizer)
        assert torch.equal(network.weight.grad, torch.ones_like(network.weight))
        scaler.step(optimizer)
        scaler.update()
        assert torch.allclose(network.weight, before - 0.1)
        assert torch.cuda.amp.GradScaler(enabled=False).scale(loss) is loss


def test_a_step_that_overflows_is_left_out() -> None:
    assert FIX.around_worker is not None
    with FIX.around_worker():
        parameter = nn.Parameter(torch.ones(1))
        optimizer = torch.optim.SGD([parameter], lr=0.1)
        scaler = torch.cuda.amp.GradScaler(init_scale=8.0)
        scaler.scale((parameter * torch.inf).sum()).backward()
        scaler.step(optimizer)
        scaler.update()
        assert parameter.item() == 1
        assert scaler.get_scale() == 4


def test_it_is_undone() -> None:
    assert FIX.around_worker is not None
    before = torch.cuda.amp.autocast, torch.cuda.amp.GradScaler
    with FIX.around_worker():
        assert torch.cuda.amp.autocast is not before[0]
    with pytest.raises(ZeroDivisionError), FIX.around_worker():
        raise ZeroDivisionError
    assert (torch.cuda.amp.autocast, torch.cuda.amp.GradScaler) == before
