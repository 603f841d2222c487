"""Two checkouts in turns: here one and the same."""

from pathlib import Path

from benchmarks.engine.against import ROOT, compare
from tests.engine.tiny import tiny_config


def test_a_checkout_against_itself(tmp_path: Path) -> None:
    config = tmp_path / "tiny.yaml"
    config.write_text(tiny_config().to_yaml(), encoding="utf-8")
    found = compare(ROOT, config, ["OPTIMIZATION.batch_size=4"], rounds=3)
    for name in ("other", "noise"):
        median, low, high = found[name]
        assert 0 < low <= median <= high
    assert found["seconds"][0] > 0
