"""Histograms of what a training that diverges scores."""

import math
from pathlib import Path

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from topk_plugin.base.run_log import RunLog


@pytest.mark.parametrize(
    ("values", "counted"),
    [
        ([1e300, -1e300, 3e38], 3),  # outside of all of TensorBoard's bins
        ([math.nan, math.inf, 0.5, 2.0], 2),
        ([math.nan, -math.inf], 0),
        ([], 0),
    ],
)
def test_a_histogram_takes_any_scores(tmp_path: Path, values: list[float], counted: int) -> None:
    log = RunLog(tmp_path)
    log.histogram(1, "topk/scores", torch.tensor(values, dtype=torch.float64))
    log.close()
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    if counted == 0:
        assert events.Tags()["histograms"] == []
        return
    (event,) = events.Histograms("topk/scores")
    assert event.histogram_value.num == counted
    assert sum(event.histogram_value.bucket) == counted
