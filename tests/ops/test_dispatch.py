"""The choice of an op's implementation."""

import pytest
import torch

from topk_plugin.base.errors import UserError
from topk_plugin.ops import dispatch

CPU, CUDA, META = torch.device("cpu"), torch.device("cuda"), torch.device("meta")
KINDS = {"triton", "fused", "algebra", "reference"}


@pytest.fixture(autouse=True)
def _no_choice_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(dispatch.ENVIRONMENT_VARIABLE, raising=False)


def test_every_op_has_an_implementation_everywhere() -> None:
    for name in dispatch.OPS:
        assert {dispatch.implementation(name, d) for d in (CPU, CUDA, META)} <= KINDS
        assert dispatch.implementation(name, CPU) != "triton"


def test_references_can_be_forced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(dispatch.ENVIRONMENT_VARIABLE, "reference")
    for name in dispatch.OPS:
        for device in (CPU, CUDA, META):
            assert dispatch.implementation(name, device) == "reference"
    assert "TOPK_PLUGIN_OPS=reference" in dispatch.describe(CPU)


def test_an_unknown_value_is_refused_in_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(dispatch.ENVIRONMENT_VARIABLE, "fast")
    with pytest.raises(UserError, match=r"TOPK_PLUGIN_OPS is 'fast'; allowed: reference .*auto"):
        dispatch.implementation("gate_rows", CPU)


def test_without_triton_its_ops_use_the_algebra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dispatch, "has_triton", lambda: False)
    for name in ("gate_rows", "conditional_batch_norm_relu"):
        assert dispatch.implementation(name, CUDA) == dispatch.implementation(name, META)
    assert "the package triton is not installed" in dispatch.describe(CUDA)


@pytest.mark.parametrize("device", [CPU, CUDA])
def test_the_line_names_every_op_once(device: torch.device) -> None:
    line = dispatch.describe(device)
    assert "\n" not in line
    for name in dispatch.OPS:
        assert line.count(name) == 1
