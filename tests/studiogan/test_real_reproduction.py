"""The reproduction harness with StudioGAN's own trainer."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tests.engine.tiny import tiny_images, write_image_folder
from topk_plugin.engine.config.config import Config
from topk_plugin.studiogan.testing.in_process import SMALL, merged
from topk_plugin.study import in_studiogan
from topk_plugin.study.spec import Data, RunSpec
from topk_plugin.study.worker import RESULT, run

pytestmark = pytest.mark.studiogan

TOPK = {"LOSS": {"apply_topk": True, "topk_gamma": 0.5, "topk_nu": 0.5, "topk_every": 1}}
AVERAGE = {"MODEL": {"apply_g_ema": True, "g_ema_decay": 0.5, "g_ema_start": 1}}
STEPS = 4


def test_studiogan_trains_and_the_harness_measures(
    studiogan_checkout: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TOPK_PLUGIN_CACHE", str(tmp_path / "cache"))
    images = tiny_images(70)
    images = replace(images, labels=torch.arange(70) % 10, class_names=tuple("abcdefghij"))
    write_image_folder(tmp_path / "data" / "train", images)
    short = {"OPTIMIZATION": {"d_updates_per_step": 1, "total_steps": STEPS}}
    tree = merged(merged(merged(SMALL, TOPK), AVERAGE), short)
    spec = RunSpec(
        gan="BigGAN",
        arm="topk",
        seed=3,
        config=Config.from_dict(tree).to_dict(),
        data=Data("MY_DATASET", str(tmp_path / "data"), str(tmp_path / "data")),
        hold_out=None,
        precision="fp32",
        threads=1,
        device="cpu",
        extractor="builtin",
        inception_weights=None,
        samples=64,
        looks=2,
        studiogan=str(studiogan_checkout),
    )
    run(spec, tmp_path / "run")
    content = json.loads((tmp_path / "run" / RESULT).read_text())
    assert content["engine"] == "StudioGAN"
    (entry,) = content["history"]
    assert entry["step"] == STEPS
    assert entry["frechet_distance"] != entry["raw_frechet_distance"]
    saved = in_studiogan.checkpoints(tmp_path / "run" / "studiogan")
    assert saved is not None
    assert in_studiogan.step_of(saved) == STEPS

    (tmp_path / "run" / RESULT).unlink()  # killed after the training: it is not trained again
    run(spec, tmp_path / "run")
    assert json.loads((tmp_path / "run" / RESULT).read_text())["history"] == [entry]
