"""Instance selection: densities by hand, what is kept, and a training that uses it."""

import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.mixture import GaussianMixture
from torch import Tensor

from tests.engine.tiny import tiny_config, tiny_images, write_image_folder
from topk_plugin.base.errors import UserError
from topk_plugin.engine.data.images import ImageSet
from topk_plugin.engine.data.open import open_images
from topk_plugin.engine.data.reading import Reading
from topk_plugin.engine.data.stored import StoredImages
from topk_plugin.engine.methods import instance_selection
from topk_plugin.engine.methods.instance_selection import (
    INSTANCE_SELECTION,
    Selection,
    densest,
    densities,
    gaussian_density,
    neighbour_density,
)
from topk_plugin.engine.plan import describe_plan
from topk_plugin.engine.trainer import Trainer

CORNERS = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0], [4.0, 4.0]])
CPU = torch.device("cpu")


def test_the_gaussian_is_the_maximum_likelihood_one() -> None:
    expected = torch.tensor([-2.266694, -3.071532, -3.071532, -3.437423], dtype=torch.float64)
    torch.testing.assert_close(gaussian_density(CORNERS), expected, atol=1e-6, rtol=0)
    x = torch.randn(60, 5, generator=torch.Generator().manual_seed(0)) @ torch.randn(5, 5) + 3
    oracle = GaussianMixture(1, reg_covar=1e-5).fit(x.double().numpy())
    np.testing.assert_allclose(gaussian_density(x), oracle.score_samples(x.double().numpy()))


@pytest.mark.parametrize("count", [1, 2, 4, 6, 40])
def test_neighbours_are_the_fifth_others(count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(instance_selection, "_ROWS_AT_ONCE", 7)
    x = torch.randn(count, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    slow = []
    for i in range(count):
        others = sorted(float((x[i] - x[j]).norm()) for j in range(count) if j != i)
        slow.append(-others[min(5, len(others)) - 1] if others else 0.0)
    torch.testing.assert_close(neighbour_density(x), torch.tensor(slow, dtype=torch.float64))


def test_a_copy_of_an_image_is_a_neighbour() -> None:
    x = torch.zeros(8, 3)
    x[6:] = torch.tensor([[1.0, 0, 0], [9.0, 0, 0]])
    assert neighbour_density(x).tolist() == pytest.approx([0] * 6 + [-1, -9])


def test_in_too_many_dimensions_all_images_are_as_dense_and_fewer_are_used() -> None:
    """Why classes of few images are looked at in fewer dimensions."""
    generator = torch.Generator().manual_seed(2)
    x = torch.randn(24, 40, generator=generator)
    assert gaussian_density(x[:12]).std() < 1e-4 * gaussian_density(x[:12]).abs().mean()
    labels = torch.tensor([0] * 12 + [1] * 12)
    x[0] += 20
    with pytest.warns(UserWarning, match="in the first 3 principal components"):
        scores = densities(x, labels, "gaussian")
    centred = x.double() - x.double().mean(0)
    _, _, right = torch.linalg.svd(centred, full_matrices=False)
    components = centred @ right[:3].T
    for rows in (slice(0, 12), slice(12, 24)):
        torch.testing.assert_close(scores[rows], gaussian_density(components[rows]))
    assert int(scores[:12].argmin()) == 0
    assert scores[:12].std() > 0.1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        densities(x, labels, "knn")
        densities(x[:, :3], labels, "gaussian")


def test_of_equal_images_the_earlier_is_kept() -> None:
    scores, labels = gaussian_density(CORNERS), torch.zeros(4, dtype=torch.int64)
    assert densest(scores, labels, 0.5).tolist() == [0, 1]
    assert densest(torch.zeros(4), labels, 0.75).tolist() == [0, 1, 2]


@given(
    st.lists(st.tuples(st.integers(0, 3), st.integers(-3, 3)), min_size=1, max_size=40),
    st.floats(0.01, 1.0),
)
def test_each_class_keeps_its_share(rows: list[tuple[int, int]], keep: float) -> None:
    labels = torch.tensor([label for label, _ in rows])
    scores = torch.tensor([float(score) for _, score in rows])
    kept = densest(scores, labels, keep)
    assert kept.tolist() == sorted(set(kept.tolist()))
    inside = torch.zeros(len(rows), dtype=torch.bool)
    inside[kept] = True
    for label in labels.unique():
        members = labels == label
        count = int(members.sum())
        assert int((inside & members).sum()) == max(1, round(keep * count))
        ranked = [(-rows[i][1], i) for i in range(len(rows)) if rows[i][0] == int(label)]
        slow = {i for _, i in sorted(ranked)[: max(1, round(keep * count))]}
        assert slow == set(torch.nonzero(inside & members)[:, 0].tolist())


# --- in a training -------------------------------------------------------------------------

HALF = {"DATA": {"keep": 0.5}}


@pytest.fixture
def by_brightness(monkeypatch: pytest.MonkeyPatch) -> None:
    """The densest images are the brightest ones: no network is needed."""

    def select(images: ImageSet, keep: float, density: str) -> Selection:
        scores = images.images[:].double().mean((1, 2, 3))
        return Selection(densest(scores, images.labels, keep), scores, {})

    monkeypatch.setattr(instance_selection, "select", select)


def trainer(*changes: dict, images: ImageSet | None = None) -> Trainer:
    images = tiny_images(72) if images is None else images
    return Trainer(tiny_config(HALF, *changes), images, seed=0, device=CPU)


@pytest.mark.usefixtures("by_brightness")
def test_a_training_sees_the_kept_images_alone() -> None:
    images = tiny_images(72)
    scores = images.images.double().mean((1, 2, 3))
    kept = set(densest(scores, images.labels, 0.5).tolist())
    run = trainer({"PRE": {"apply_rflip": False}}, images=images)
    assert (run.image_count, run.stream.steps_per_epoch) == (36, 2)
    allowed = {images.images[i].numpy().tobytes() for i in kept}
    for _ in range(4):
        for batch in run.stream.next_step():
            pixels = ((batch.images + 1) * 127.5).round().to(torch.uint8)
            assert all(image.numpy().tobytes() in allowed for image in pixels)
    run.step()


def tensors(state: object) -> list[Tensor]:
    if isinstance(state, dict):
        return [found for value in state.values() for found in tensors(value)]
    return [state.clone()] if isinstance(state, Tensor) else []


@pytest.mark.usefixtures("by_brightness")
def test_resuming_is_exact_and_says_where_it_can_not_be(monkeypatch: pytest.MonkeyPatch) -> None:
    straight, stopped = trainer(), trainer()
    for _ in range(4):
        straight.step()
    for _ in range(2):
        stopped.step()
    resumed, state = trainer(), stopped.state_dict()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        resumed.load_state_dict(state)
        trainer({"DATA": {"keep": 0.75}}).load_state_dict(state)  # asked for
    for _ in range(2):
        resumed.step()
    pairs = zip(tensors(straight.state_dict()), tensors(resumed.state_dict()), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)
    brightest = instance_selection.select

    def otherwise(images: ImageSet, keep: float, density: str) -> Selection:
        found = brightest(images, keep, density)
        return Selection(densest(-found.scores, images.labels, keep), -found.scores, {})

    monkeypatch.setattr(instance_selection, "select", otherwise)
    with pytest.warns(UserWarning, match="keeps other images than before the checkpoint"):
        trainer().load_state_dict(state)


@pytest.mark.usefixtures("by_brightness")
def test_streamed_images_are_chosen_alike(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOPK_PLUGIN_CACHE", str(tmp_path / "cache"))
    folder = write_image_folder(tmp_path / "data")

    def opened(stream: bool) -> ImageSet:
        reading = Reading(stream=stream, num_workers=0)
        return open_images("Mine", folder, img_size=32, reading=reading)

    held, streamed = opened(False), opened(True)
    settings = tiny_config({"DATA": {"keep": 0.4}})
    assert INSTANCE_SELECTION.choose_images is not None
    one, other = (INSTANCE_SELECTION.choose_images(i, settings) for i in (held, streamed))
    assert isinstance(other.images, StoredImages)
    assert torch.equal(one.images[:], other.images[:])
    assert torch.equal(one.labels, other.labels)
    assert len({i.fingerprint() for i in (held, one, other)}) == 3


def test_off_it_changes_nothing_and_half_on_it_is_refused() -> None:
    config = tiny_config()
    assert not INSTANCE_SELECTION.on(config)
    assert "keep" not in config.to_yaml()
    with pytest.raises(UserError, match="has no effect while"):
        tiny_config({"DATA": {"keep_density": "knn"}})
    with pytest.raises(UserError, match="above 0 and at most 1"):
        tiny_config({"DATA": {"keep": 0}})


def test_the_plan_says_that_k_falls_sooner() -> None:
    def notes(**loss: object) -> str:
        config = tiny_config(HALF, {"LOSS": loss})
        return "\n".join(describe_plan(config, images=36, steps_per_epoch=2))

    assert "LOSS.topk_gamma=0.7071 keeps its pace" in notes(topk_gamma=0.5)
    assert "keeps its pace" not in notes(topk_every=10)
    assert "features that chose the images" in notes()
