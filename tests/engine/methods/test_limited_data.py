"""Training on part of the images."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.engine.tiny import tiny_config, tiny_images, tiny_trainer
from topk_plugin.base.errors import UserError
from topk_plugin.engine.methods.limited_data import LIMITED_DATA, part_of
from topk_plugin.engine.plan import describe_plan


@given(st.lists(st.integers(0, 3), min_size=1, max_size=60), st.floats(0.01, 1.0))
def test_each_class_gives_its_share(classes: list[int], share: float) -> None:
    labels = torch.tensor(classes)
    chosen = part_of(labels, share).tolist()
    assert chosen == sorted(set(chosen))
    for label in set(classes):
        own = [i for i in chosen if classes[i] == label]
        assert len(own) == max(1, round(share * classes.count(label)))
    # less data is a part of more
    assert set(part_of(labels, share / 2).tolist()) <= set(chosen)


def test_only_that_part_is_trained_on() -> None:
    trainer = tiny_trainer({"DATA": {"share": 0.4}, "PRE": {"apply_rflip": False}})
    images = tiny_images()
    allowed = {images.images[i].numpy().tobytes() for i in part_of(images.labels, 0.4).tolist()}
    assert trainer.image_count == len(allowed) == 16
    for _ in range(3):
        for batch in trainer.stream.next_step():
            pixels = ((batch.images + 1) * 127.5).round().to(torch.uint8)
            assert all(image.numpy().tobytes() in allowed for image in pixels)


def test_off_by_default_and_said_in_the_plan() -> None:
    assert not LIMITED_DATA.on(tiny_config())
    with pytest.raises(UserError, match="above 0 and at most 1"):
        tiny_config({"DATA": {"share": 0}})
    config = tiny_config({"DATA": {"share": 0.4}})
    plan = "\n".join(describe_plan(config, images=16, steps_per_epoch=1.0))
    assert "metrics compare with all images" in plan
