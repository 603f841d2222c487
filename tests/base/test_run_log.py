"""What a log leaves: histograms of any scores, layouts, HParams, warnings, sheets of samples."""

import errno
import json
import math
import re
import warnings
from pathlib import Path

import pytest
import torch
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.custom_scalar import layout_pb2
from tensorboard.plugins.hparams.api_pb2 import Status
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

from topk_plugin.base.errors import UserError
from topk_plugin.base.notices import read_notices
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


def test_charts_that_belong_together_are_laid_out(tmp_path: Path) -> None:
    RunLog(tmp_path).close()
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    content = events.SummaryMetadata("custom_scalars__config__").plugin_data
    assert content.plugin_name == "custom_scalars"
    layout = layout_pb2.Layout()
    (event,) = events.Tensors("custom_scalars__config__")
    layout.ParseFromString(event.tensor_proto.string_val[0])
    shown = [
        pattern
        for category in layout.category
        for chart in category.chart
        for pattern in chart.multiline.tag
    ]
    # every tag that is promised is in a chart (the histogram and the picture have their own tabs)
    for tag in (
        *("topk/k", "topk/fraction_kept", "topk/threshold", "topk/score_kept_mean"),
        *("topk/score_dropped_mean", "topk/nonfinite", "topk/keep_rate_class/7"),
        *("loss/generator", "loss/discriminator", "loss/conditional", "metric/fid"),
        "speed/images_per_second",
    ):
        assert any(re.match(pattern, tag) for pattern in shown), tag


def test_hparams_have_settings_and_metrics(tmp_path: Path) -> None:
    with RunLog(tmp_path) as log:
        settings = {"lr": 0.1, "LOSS": {"apply_topk": True, "name": "hinge"}, "attn": [1, 2]}
        log.describe(settings, metrics=["fid"])
        log.scalars(5, {"metric/fid": 3.0})
        log.finish({"fid": 2.5})
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()

    def content(tag: str) -> HParamsPluginData:
        return HParamsPluginData.FromString(events.SummaryMetadata(tag).plugin_data.content)

    start = content("_hparams_/session_start_info").session_start_info.hparams
    assert start["lr"].number_value == 0.1
    assert start["LOSS.apply_topk"].number_value == 1
    assert start["LOSS.name"].string_value == "hinge"
    assert start["attn"].string_value == "[1, 2]"
    (metric,) = content("_hparams_/experiment").experiment.metric_infos
    assert metric.name.tag == "metric/fid"
    assert content("_hparams_/session_end_info").session_end_info.status == Status.STATUS_SUCCESS
    assert events.Scalars("metric/fid")[-1].value == 2.5
    assert json.loads((tmp_path / "result.json").read_text())["metrics"] == {"fid": 2.5}


def test_warnings_are_kept_and_shown_as_before(tmp_path: Path) -> None:
    log = RunLog(tmp_path)
    with warnings.catch_warnings(record=True) as shown:
        warnings.simplefilter("always")
        with log:
            log.scalars(7, {"loss/generator": 1.0})
            for _ in range(2):
                warnings.warn("look", UserWarning, stacklevel=1)
            log.notice("said by hand")
        warnings.warn("after", UserWarning, stacklevel=1)
    assert [str(w.message) for w in shown] == ["look", "look", "after"]
    assert read_notices(tmp_path) == [(7, "UserWarning: look"), (7, "said by hand")]


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_a_sheet_has_every_image_in_its_place(tmp_path: Path, channels: int) -> None:
    log = RunLog(tmp_path)
    images = torch.linspace(-1, 1, 5)[:, None, None, None].expand(5, channels, 8, 8)
    log.samples(3, images, columns=3)
    log.close()
    with Image.open(tmp_path / "samples" / "step_000003.png") as picture:
        assert picture.size == (2 + 3 * 66, 2 + 2 * 66)  # 8 pixels enlarged to 64, gaps of 2
        found = [
            picture.getpixel((2 + 66 * (i % 3) + 30, 2 + 66 * (i // 3) + 30)) for i in range(6)
        ]
    assert found == [(v, v, v) for v in (0, 64, 128, 191, 255, 255)]  # the last place is empty


def test_samples_of_another_shape_are_refused(tmp_path: Path) -> None:
    log = RunLog(tmp_path)
    with pytest.raises(ValueError, match=r"samples are images .* not \[5, 8\]"):
        log.samples(3, torch.zeros(5, 8))
    with pytest.raises(ValueError, match="columns must be 1 or more, not 0"):
        log.samples(3, torch.zeros(5, 1, 8, 8), columns=0)
    log.close()


def test_a_disk_that_fails_is_said_with_the_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = RunLog(tmp_path)

    def full(*given: object, **named: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    for name in ("add_scalar", "add_histogram", "add_image", "close"):
        monkeypatch.setattr(log._writer, name, full)
    for call in (
        lambda: log.scalars(1, {"a": 1.0}),
        lambda: log.histogram(1, "a", torch.ones(3)),
        lambda: log.image(1, "a", torch.ones(3, 2, 2)),
        log.close,
    ):
        with pytest.raises(UserError, match=r"The disk is full: .*tensorboard was not written"):
            call()
