"""Every arm of the companions' study trains, in the rehearsal's size, into its last phase."""

import pytest
import torch
from torch import Tensor

from benchmarks.paper.presets import PRESETS
from topk_plugin.engine.data.images import ImageSet
from topk_plugin.engine.data.open import open_images
from topk_plugin.engine.methods import instance_selection, selective_matching
from topk_plugin.engine.trainer import Trainer

REHEARSAL = PRESETS["companions-rehearsal"]


@pytest.fixture(autouse=True)
def by_brightness(monkeypatch: pytest.MonkeyPatch) -> None:
    """The densest images are the brightest ones: no network is needed."""

    def image_densities(images: ImageSet, density: str, *, wanted_by: str) -> tuple[Tensor, dict]:
        return images.images[:].double().mean((1, 2, 3)), {}

    monkeypatch.setattr(selective_matching, "image_densities", image_densities)
    monkeypatch.setattr(instance_selection, "image_densities", image_densities)


@pytest.fixture(scope="module")
def digits() -> ImageSet:
    return open_images("Digits", None, img_size=32)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("gan", "arm"), [(gan.name, arm.name) for gan in REHEARSAL.gans for arm in gan.arms]
)
def test_an_arm_trains(gan: str, arm: str, digits: ImageSet) -> None:
    setting = REHEARSAL.gan(gan)
    config = setting.config_of(next(one for one in setting.arms if one.name == arm))
    trainer = Trainer(config, digits, seed=0, device=torch.device("cpu"))
    for _ in range(21 if "Dia" in arm else 2):  # until its images are drawn by weight
        losses = trainer.step()
    assert all(loss.isfinite() for loss in losses.values())
    assert (trainer.judge() is not None) == ("Dia" in arm)
