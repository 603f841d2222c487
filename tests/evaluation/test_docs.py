"""docs/evaluation.md names what there is."""

from pathlib import Path

from topk_plugin.evaluation.extractor_names import NETWORKS
from topk_plugin.evaluation.imagenet_extractor import INPUT_SIZE
from topk_plugin.evaluation.metrics import METRICS

PAGE = (Path(__file__).parents[2] / "docs" / "evaluation.md").read_text(encoding="utf-8")


def test_every_metric_has_its_row():
    for metric in METRICS.values():
        (row,) = [line for line in PAGE.splitlines() if line.startswith(f"| `{metric.name}` |")]
        cells = [cell.strip() for cell in row.split("|")]
        for key in metric.keys:
            assert f"`{key.inception}`" in cells[2]
            assert f"`{key.other}`" in cells[3] or (
                key.inception == key.other and cells[3] == "the same"
            )
            assert cells[4] == ("higher" if key.higher_is_better else "lower")


def test_every_extractor_has_its_row():
    for name in NETWORKS:
        (row,) = [line for line in PAGE.splitlines() if line.startswith(f"| `{name}` |")]
        assert name != "imagenet" or f"resized to {INPUT_SIZE} pixels" in row
