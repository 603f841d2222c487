"""What is logged, against plain Python, in metrics.jsonl and in TensorBoard alike."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor

from topk_plugin import KSchedule, TopK
from topk_plugin.base.run_log import RunLog
from topk_plugin.gate.monitor import TopKMonitor


def gated_batch(topk: TopK, scores: list[float], labels: list[int]) -> Tensor:
    images = torch.zeros(len(scores), 3, 2, 2)
    images[:, 0, 0, 0] = torch.tensor(scores)
    images.requires_grad_()
    with topk.generator_step() as step:
        first_pixel = step.gate(images)[:, 0, 0, 0]
        step.select(first_pixel, torch.tensor(labels))
        first_pixel.sum().backward()
    topk.end_step()
    return images


def at_half(**options) -> TopK:
    topk = TopK(KSchedule(0.5, 0.5), **options)
    topk.progress.epochs = 5
    return topk


def test_scalars_against_plain_python() -> None:
    topk = at_half()
    monitor = TopKMonitor(topk, num_classes=3)
    for scores, labels in (
        ([0.9, 0.1, 0.5, math.nan], [0, 0, 1, 1]),
        ([0.2, 0.4, 0.6, 0.8], [0, 1, 0, 1]),
    ):
        gated_batch(topk, scores, labels)
        monitor.update()
    scalars = monitor.scalars()
    assert scalars["topk/k"] == 2
    assert scalars["topk/fraction_kept"] == 0.5
    assert scalars["topk/threshold"] == pytest.approx(0.6)
    assert scalars["topk/score_kept_mean"] == pytest.approx(0.7)
    assert scalars["topk/score_dropped_mean"] == pytest.approx(0.3)
    assert scalars["topk/nonfinite"] == 1
    # class 0: kept 0.9 and 0.6 of 4; class 1: kept 0.5 and 0.8 of 4; class 2 was never seen
    assert scalars["topk/keep_rate_class/0"] == 0.5
    assert scalars["topk/keep_rate_class/1"] == 0.5
    assert "topk/keep_rate_class/2" not in scalars


def test_keep_rates_start_anew_after_a_reading() -> None:
    topk = at_half()
    monitor = TopKMonitor(topk, num_classes=2)
    gated_batch(topk, [1.0, 0.0], [0, 1])
    monitor.update()
    assert monitor.scalars()["topk/keep_rate_class/0"] == 1.0
    gated_batch(topk, [0.0, 1.0], [0, 1])
    monitor.update()
    assert monitor.scalars()["topk/keep_rate_class/0"] == 0.0


@pytest.mark.parametrize("higher_is_better", [True, False])
def test_picture_shows_best_kept_left_and_worst_dropped_right(higher_is_better: bool) -> None:
    topk = at_half(higher_is_better=higher_is_better)
    images = gated_batch(topk, [0.1, 0.9, -0.5, 0.4], [0, 0, 0, 0])
    picture = TopKMonitor(topk).kept_vs_dropped(images, pairs=1)
    best, worst = (0.9, -0.5) if higher_is_better else (-0.5, 0.9)
    assert picture.shape == (3, 2, 2 + 4 + 2)
    assert picture[0, 0, 0] == pytest.approx((best + 1) / 2)
    assert picture[0, 0, 6] == pytest.approx((worst + 1) / 2)
    assert (picture[:, :, 2:6] == 1).all()


def test_picture_tiles_in_order() -> None:
    topk = at_half()
    scores = [i / 20 for i in range(12)]
    picture = TopKMonitor(topk).kept_vs_dropped(gated_batch(topk, scores, [0] * 12), pairs=6)
    assert picture.shape == (3, 4, 8 + 4 + 8)  # 2 rows of 4 images of 2 x 2
    first_pixels = [picture[0, 2 * (i // 4), 2 * (i % 4)].item() for i in range(6)]
    assert first_pixels == pytest.approx([(scores[11 - i] + 1) / 2 for i in range(6)])
    dropped = [picture[0, 2 * (i // 4), 12 + 2 * (i % 4)].item() for i in range(6)]
    assert dropped == pytest.approx([(scores[i] + 1) / 2 for i in range(6)])


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_a_picture_of_any_number_of_channels(channels: int) -> None:
    topk = at_half()
    gated_batch(topk, [0.1, 0.9, -0.5, 0.4], [0] * 4)
    images = torch.rand(4, channels, 2, 2) * 2 - 1
    picture = TopKMonitor(topk).kept_vs_dropped(images, pairs=1)
    shown = {1: [0, 0, 0], 2: [0, 1, None]}.get(channels, [0, 1, 2])
    for row, source in enumerate(shown):
        best = torch.zeros(2, 2) if source is None else (images[1, source] + 1) / 2
        assert torch.allclose(picture[row, :, :2], best)


def test_what_is_no_picture_is_refused() -> None:
    topk = at_half()
    gated_batch(topk, [0.1, 0.9, -0.5, 0.4], [0] * 4)
    with pytest.raises(ValueError, match=r"images \[N, channels, height, width\], not \[4, 12\]"):
        TopKMonitor(topk).kept_vs_dropped(torch.zeros(4, 12))


def test_no_picture_while_nothing_is_dropped() -> None:
    topk = TopK(KSchedule(0.5, 0.5))
    images = gated_batch(topk, [0.1, 0.2], [0, 1])
    assert TopKMonitor(topk).kept_vs_dropped(images) is None


def read_jsonl(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def read_tensorboard(folder: Path, tag: str) -> list[tuple[int, float]]:
    events = EventAccumulator(str(folder / "tensorboard"))
    events.Reload()
    return [(event.step, event.value) for event in events.Scalars(tag)]


def test_both_logs_hold_the_same(tmp_path: Path) -> None:
    log = RunLog(tmp_path)
    log.scalars(1, {"loss/generator": 0.5, "topk/score_dropped_mean": math.nan})
    log.scalars(2, {"loss/generator": 0.25})
    log.histogram(2, "topk/scores", torch.randn(10))
    log.histogram(2, "topk/scores", torch.empty(0))
    log.image(2, "topk/kept_vs_dropped", torch.zeros(3, 4, 4))
    log.close()
    entries = read_jsonl(tmp_path)
    assert [(e["step"], e["loss/generator"]) for e in entries] == [(1, 0.5), (2, 0.25)]
    assert entries[0]["topk/score_dropped_mean"] is None  # JSON has no NaN
    assert read_tensorboard(tmp_path, "loss/generator") == [(1, 0.5), (2, 0.25)]


def test_tensors_and_numpy_numbers_are_numbers(tmp_path: Path) -> None:
    log = RunLog(tmp_path)
    values = {
        "tensor": torch.tensor(0.5, requires_grad=True),
        "integers": torch.tensor([3]),
        "numpy": np.float32(0.25),
        "count": np.int64(7),
        "nan": torch.tensor(math.nan),
    }
    log.scalars(1, values)
    for wrong in (torch.zeros(2), "0.5", None, np.zeros(3)):
        with pytest.raises(TypeError, match="wrong must be a number"):
            log.scalars(2, {"right": 1.0, "wrong": wrong})
    log.close()
    (entry,) = read_jsonl(tmp_path)  # nothing of what was refused, in either log
    expected = {"tensor": 0.5, "integers": 3, "numpy": 0.25, "count": 7, "nan": None}
    assert {tag: entry[tag] for tag in values} == expected
    assert read_tensorboard(tmp_path, "numpy") == [(1, 0.25)]
    with pytest.raises(KeyError):
        read_tensorboard(tmp_path, "right")


def test_resuming_forgets_what_came_after_the_checkpoint(tmp_path: Path) -> None:
    log = RunLog(tmp_path)
    for step in (10, 20, 30):
        log.scalars(step, {"loss/generator": float(step)})
    log.close()
    with open(tmp_path / "metrics.jsonl", "a") as file:
        file.write('{"step": 40, "loss/gen')  # killed while writing
    log = RunLog(tmp_path, resume_step=20)
    log.scalars(30, {"loss/generator": -1.0})
    log.close()
    assert [(e["step"], e["loss/generator"]) for e in read_jsonl(tmp_path)] == [
        (10, 10.0),
        (20, 20.0),
        (30, -1.0),
    ]
    assert read_tensorboard(tmp_path, "loss/generator") == [(10, 10.0), (20, 20.0), (30, -1.0)]
