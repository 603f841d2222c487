"""The faster precision by the clock."""

import pytest
import torch

from tests.engine.tiny import tiny_config, tiny_images
from topk_plugin.base import environment
from topk_plugin.engine import precision


def test_a_tie_stays_in_fp32() -> None:
    assert precision.faster({"fp32": 1.0, "bf16": 0.97}) == "fp32"
    assert precision.faster({"fp32": 1.0, "bf16": 0.9}) == "bf16"
    assert precision.faster({"fp32": 1.0, "bf16": 4.0}) == "fp32"


def test_timing_leaves_no_trace() -> None:
    random = torch.random.get_rng_state()
    seconds = precision.step_seconds(
        tiny_config(), tiny_images(), device=torch.device("cpu"), seed=0
    )
    assert precision.bf16_cost() > 0
    assert seconds.keys() == {"fp32", "bf16"}
    assert min(seconds.values()) > 0
    assert torch.equal(torch.random.get_rng_state(), random)


@pytest.mark.parametrize(
    ("flags", "units", "said"),
    [
        ("fpu avx2 avx512f amx_bf16 amx_tile", ("avx2", "avx512f", "amx_bf16"), "with amx_bf16"),
        ("fpu avx2", ("avx2",), "without 16-bit units"),
    ],
)
def test_units_are_read_from_the_system(
    monkeypatch: pytest.MonkeyPatch, flags: str, units: tuple[str, ...], said: str
) -> None:
    info = {"model name": "Some CPU @ 3 GHz", "flags": flags}
    monkeypatch.setattr(environment, "_cpuinfo", lambda: info)
    for cached in (environment.cpu_model, environment.cpu_units):
        cached.cache_clear()
    try:
        assert environment.cpu_units() == units
        assert environment.environment()["cpu"] == "Some CPU @ 3 GHz"
        text = precision.describe_bf16(4.7)
        assert said in text
        assert "Some CPU @ 3 GHz" in text
        assert "take 4.7 times fp32's time" in text
    finally:
        for cached in (environment.cpu_model, environment.cpu_units):
            cached.cache_clear()
