"""Images that are larger than memory: the same batches, the same fingerprint, in any process."""

import multiprocessing
import os
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from PIL import Image

from topk_plugin.base.errors import UserError
from topk_plugin.engine.data import memory, open, survey
from topk_plugin.engine.data.images import ImageSet
from topk_plugin.engine.data.loading import PORTION, portions
from topk_plugin.engine.data.open import open_images
from topk_plugin.engine.data.picture import Picture
from topk_plugin.engine.data.reading import Reading
from topk_plugin.engine.data.sources import ArraySource
from topk_plugin.engine.data.stored import StoredImages
from topk_plugin.engine.data.stream import Batch, BatchStream

STREAMED = Reading(stream=True, num_workers=0)
HELD = Reading(stream=False)


@pytest.fixture
def folder(tmp_path: Path, class_folders: Callable[..., Path]) -> Path:
    return class_folders(tmp_path / "d", {"cat": 11, "dog": 9})


def both(path: Path, **options: object) -> tuple[ImageSet, ImageSet]:
    def get(reading: Reading) -> ImageSet:
        return open_images("Mine", path, img_size=8, reading=reading, **options)

    return get(HELD), get(STREAMED)


def stream(images: ImageSet, **options: object) -> BatchStream:
    defaults = {"batch_size": 3, "batches_per_step": 2, "seed": 1, "flip": True}
    return BatchStream(images, device=torch.device("cpu"), **(defaults | options))


def take(stream: BatchStream, steps: int) -> Iterator[Batch]:
    for step in range(steps):
        yield from stream.next_step(first_only=step % 3 == 2)


def check_equal(one: Iterator[Batch], other: Iterator[Batch]) -> None:
    for held, streamed in zip(one, other, strict=True):
        for left, right in zip(held, streamed, strict=True):
            assert torch.equal(left, right)


def zipped(folder: Path) -> Path:
    with zipfile.ZipFile(folder.parent / "d.zip", "w") as archive:
        for file in folder.rglob("*.png"):
            archive.write(file, file.relative_to(folder))
    return folder.parent / "d.zip"


def hdf5(folder: Path) -> Path:
    held = open_images("Mine", folder, img_size=10)
    with h5py.File(folder.parent / "d.hdf5", "w") as file:
        file["imgs"] = held.images[:].permute(0, 2, 3, 1).numpy()
        file["labels"] = held.labels.numpy()
    return folder.parent / "d.hdf5"


@pytest.mark.parametrize("kind", [lambda folder: folder, zipped, hdf5])
@pytest.mark.parametrize("workers", [0, 2])
def test_batches_are_those_of_the_set_in_memory(
    folder: Path, kind: Callable[[Path], Path], workers: int
) -> None:
    held, streamed = both(kind(folder))
    assert isinstance(streamed.images, StoredImages)
    streamed.images.num_workers = workers
    assert streamed.fingerprint() == held.fingerprint()
    assert streamed.source == held.source
    assert torch.equal(streamed.labels, held.labels)
    check_equal(take(stream(held), 8), take(stream(streamed), 8))


def test_torchvisions_sets_are_resized_when_they_are_needed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Tiny:
        data = np.random.default_rng(0).integers(0, 256, (9, 32, 32, 3), dtype=np.uint8)
        targets = tuple(range(9))
        classes = tuple("abcdefghi")

    monkeypatch.setattr("topk_plugin.engine.data.torchvision_sets._open", lambda *_, **__: Tiny())
    (tmp_path / "cifar-10-batches-py").mkdir()
    held, streamed = (
        open_images("CIFAR10", tmp_path, img_size=40, reading=reading)
        for reading in (HELD, STREAMED)
    )
    assert streamed.fingerprint() == held.fingerprint()
    check_equal(take(stream(held), 3), take(stream(streamed), 3))


@pytest.mark.parametrize("steps", [0, 1, 3, 5])
def test_a_resumed_stream_goes_on_exactly(folder: Path, steps: int) -> None:
    held, streamed = both(folder)
    first = stream(streamed)
    list(take(first, steps))
    resumed = stream(streamed)
    list(take(resumed, 1))  # was somewhere else
    resumed.load_state_dict(first.state_dict())
    whole = stream(held)
    list(take(whole, steps))
    check_equal(take(whole, 5), take(resumed, 5))


def test_a_batch_larger_than_a_portion_and_an_own_order(folder: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (PORTION * 3, 8, 8), dtype=np.uint8)
    labels = torch.zeros(len(pixels), dtype=torch.int64)
    rows = torch.arange(len(pixels))
    stored = StoredImages(ArraySource(pixels, 8), rows, num_workers=0, digest="x")
    streamed = ImageSet(stored, labels, ("all",), "N", "arrays")
    held = ImageSet(stored[:], labels, ("all",), "N", "arrays")

    def backwards(_: torch.Generator, count: int) -> torch.Tensor:
        return torch.arange(count).flip(0)

    options = {"batch_size": PORTION + 7, "batches_per_step": 1, "order": backwards}
    check_equal(take(stream(held, **options), 4), take(stream(streamed, **options), 4))


def test_indexing_is_a_tensors(folder: Path) -> None:
    held, streamed = both(folder)
    assert streamed.images.shape == held.images.shape
    for index in (3, slice(2, 5), torch.tensor([7, 0]), torch.arange(20) % 3 == 0):
        assert torch.equal(streamed.images[index], held.images[index])


def test_no_global_random_number_is_drawn(folder: Path) -> None:
    _, streamed = both(folder)
    assert isinstance(streamed.images, StoredImages)
    streamed.images.num_workers = 1
    before = torch.get_rng_state()
    list(take(stream(streamed), 2))
    assert torch.equal(torch.get_rng_state(), before)


def test_the_set_is_looked_through_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, first = both(folder)
    monkeypatch.setattr(survey, "portions", None)
    assert both(folder)[1].fingerprint() == first.fingerprint()


def test_damage_depth_and_frames_are_found_beforehand(folder: Path) -> None:
    Image.fromarray(np.full((8, 8), 2048, np.uint16)).save(folder / "cat" / "deep.png")
    (folder / "dog" / "bad.png").write_bytes(b"junk")
    with pytest.raises(UserError, match=r"1 of 22 files .*bad\.png \(not an image\)"):
        open_images("Mine", folder, img_size=8, reading=STREAMED)
    held, streamed = (
        open_images("Mine", folder, img_size=8, reading=replace(reading, skip_damaged=True))
        for reading in (HELD, STREAMED)
    )
    assert streamed.skipped == 1
    assert streamed.source == held.source
    assert "read as 12-bit gray" in streamed.source
    assert streamed.fingerprint() == held.fingerprint()
    assert torch.equal(streamed.images[:], held.images[:])


@pytest.mark.parametrize("workers", [0, 1])
def test_a_file_that_is_damaged_later_is_named(folder: Path, workers: int) -> None:
    _, streamed = both(folder)
    assert isinstance(streamed.images, StoredImages)
    streamed.images.num_workers = workers
    for file in folder.rglob("*.png"):
        file.write_bytes(b"junk")
    with pytest.raises(UserError, match=r"can't be decoded any more \(.*not an image"):
        list(take(stream(streamed), 1))
    with pytest.raises(UserError, match="any more"):
        streamed.images[0]


class Deadly:
    img_size = 8

    def __len__(self) -> int:
        return 8

    def picture(self, index: int) -> Picture:
        os._exit(1)


def test_a_worker_that_dies_ends_in_a_sentence() -> None:
    with pytest.raises(UserError, match=r"A worker that reads images has died .*--num_workers 0"):
        list(portions(Deadly(), [[0], [1]], num_workers=1))


def test_chosen_by_itself_where_the_images_take_more_than_allowed(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    needed = 20 * 3 * 8 * 8

    def streams(reading: Reading) -> bool:
        images = open.open_images("Mine", folder, img_size=8, reading=reading).images
        return isinstance(images, StoredImages)

    assert not streams(Reading(memory=needed))
    assert streams(Reading(memory=needed - 1, num_workers=0))
    assert not streams(Reading(memory=needed - 1, stream=False))
    monkeypatch.setattr(memory, "available_memory", lambda: 2 * needed)
    assert not streams(Reading())
    monkeypatch.setattr(memory, "available_memory", lambda: 2 * needed - 2)
    assert streams(Reading(num_workers=0))
    monkeypatch.setattr(memory, "available_memory", lambda: None)
    assert not streams(Reading())


def test_a_stream_that_is_dropped_or_released_leaves_no_worker(folder: Path) -> None:
    held, streamed = both(folder)
    assert isinstance(streamed.images, StoredImages)
    streamed.images.num_workers = 2
    before = set(multiprocessing.active_children())
    own = stream(streamed)
    list(take(own, 2))
    assert len(set(multiprocessing.active_children()) - before) == 2
    own.release()
    assert set(multiprocessing.active_children()) == before
    whole = stream(held)
    list(take(whole, 2))
    check_equal(take(whole, 2), take(own, 2))
    assert len(set(multiprocessing.active_children()) - before) == 2
    del own
    assert set(multiprocessing.active_children()) == before
