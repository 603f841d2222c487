from pathlib import Path

import h5py
import numpy as np
import pytest

from topk_plugin.base.errors import UserError
from topk_plugin.engine.data import hdf5
from topk_plugin.engine.data.hdf5 import load_hdf5
from topk_plugin.engine.data.images import ImageSet
from topk_plugin.engine.data.pixels import fit_arrays

IMGS = np.random.default_rng(0).integers(0, 256, (7, 8, 8, 3), dtype=np.uint8)
LABELS = np.array([0, 1, 2, 2, 1, 0, 2])


def write(path: Path, **datasets: np.ndarray) -> Path:
    with h5py.File(path, "w") as file:
        for key, values in datasets.items():
            file.create_dataset(key, data=values)
    return path


def load(path: Path, *, img_size: int = 8, num_classes: int | None = 3) -> ImageSet:
    return load_hdf5(path, name="Mine", img_size=img_size, split="train", num_classes=num_classes)


def test_images_become_channels_first_as_they_are(tmp_path: Path) -> None:
    loaded = load(write(tmp_path / "d.hdf5", imgs=IMGS, labels=LABELS))
    assert (loaded.images.numpy() == IMGS.transpose(0, 3, 1, 2)).all()
    assert loaded.labels.tolist() == LABELS.tolist()
    assert loaded.class_names == ("0", "1", "2")


def test_images_of_another_size_are_fitted_block_by_block(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hdf5, "_IMAGES_AT_A_TIME", 3)
    loaded = load(write(tmp_path / "d.hdf5", imgs=IMGS[:, :, :6], labels=LABELS), img_size=5)
    assert (loaded.images == fit_arrays(IMGS[:, :, :6], 5)).all()


def test_without_num_classes_the_largest_label_counts(tmp_path: Path) -> None:
    file = write(tmp_path / "d.hdf5", imgs=IMGS, labels=LABELS.astype(np.uint8))
    assert load(file, num_classes=None).class_names == ("0", "1", "2")


def test_a_class_without_an_image_is_refused_in_training_and_allowed_in_a_held_out_split(
    tmp_path: Path,
) -> None:
    file = write(tmp_path / "d.hdf5", imgs=IMGS, labels=np.where(LABELS == 1, 4, LABELS))
    with pytest.raises(UserError, match=r"no image of 2 of them \(1, 3\)"):
        load(file, num_classes=5)
    held_out = load_hdf5(file, name="Mine", img_size=8, split="valid", num_classes=5)
    assert held_out.class_names == ("0", "1", "2", "3", "4")


@pytest.mark.parametrize(
    ("labels", "num_classes", "sentence"),
    [
        (LABELS, 2, "has the label 2, allowed are 0..1"),
        (LABELS - 1, 3, "has the label -1, allowed are 0..2"),
        (LABELS * 10**12, None, "has the label 2000000000000, allowed are 0..99999"),
    ],
)
def test_a_label_out_of_range(
    tmp_path: Path, labels: np.ndarray, num_classes: int | None, sentence: str
) -> None:
    file = write(tmp_path / "d.hdf5", imgs=IMGS, labels=labels)
    with pytest.raises(UserError, match=sentence):
        load(file, num_classes=num_classes)


@pytest.mark.parametrize(
    ("datasets", "sentence"),
    [
        ({"imgs": IMGS}, r"no data set 'labels' \(it holds: imgs\)"),
        ({"labels": LABELS}, r"no data set 'imgs'"),
        ({}, r"it holds: nothing"),
        ({"imgs": IMGS.astype(np.float32), "labels": LABELS}, "imgs is float32"),
        ({"imgs": IMGS.transpose(0, 3, 1, 2), "labels": LABELS}, r"imgs is uint8 \[7, 3, 8, 8\]"),
        ({"imgs": IMGS[:, :, :, 0], "labels": LABELS}, r"imgs is uint8 \[7, 8, 8\]"),
        ({"imgs": IMGS[:0], "labels": LABELS[:0]}, "not empty"),
        ({"imgs": IMGS, "labels": LABELS / 2}, "labels is float64"),
        ({"imgs": IMGS, "labels": LABELS[:5]}, r"labels is int64 \[5\]"),
    ],
)
def test_a_wrong_layout(tmp_path: Path, datasets: dict[str, np.ndarray], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        load(write(tmp_path / "d.hdf5", **datasets))


def test_a_group_in_place_of_a_data_set(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "d.hdf5", "w") as file:
        file.create_group("imgs")
    with pytest.raises(UserError, match="no data set 'imgs'"):
        load(tmp_path / "d.hdf5")


@pytest.mark.parametrize("keep", [0, 100, 900])
def test_a_damaged_file(tmp_path: Path, keep: int) -> None:
    file = write(tmp_path / "d.hdf5", imgs=IMGS, labels=LABELS)
    file.write_bytes(file.read_bytes()[:keep])
    with pytest.raises(UserError, match="not a readable HDF5 file"):
        load(file)


@pytest.mark.parametrize("kind", ["external", "soft", "virtual", "raw"])
def test_what_lies_in_another_file_is_not_opened(tmp_path: Path, kind: str) -> None:
    other = write(tmp_path / "other.hdf5", imgs=IMGS, labels=LABELS)
    with h5py.File(tmp_path / "d.hdf5", "w") as file:
        file["labels"] = LABELS
        if kind == "external":
            file["imgs"] = h5py.ExternalLink(str(other), "imgs")
        elif kind == "soft":
            file["there"] = h5py.ExternalLink(str(other), "/")
            file["imgs"] = h5py.SoftLink("/there/imgs")
        elif kind == "virtual":
            layout = h5py.VirtualLayout(IMGS.shape, np.uint8)
            layout[:] = h5py.VirtualSource(str(other), "imgs", IMGS.shape)
            file.create_virtual_dataset("imgs", layout)
        else:
            raw = [(str(other), 0, IMGS.nbytes)]
            file.create_dataset("imgs", IMGS.shape, np.uint8, external=raw)
    with pytest.raises(UserError, match="imgs is a link or lies in another file"):
        load(tmp_path / "d.hdf5")


@pytest.mark.parametrize("key", ["imgs", "labels"])
def test_a_huge_declared_shape_costs_no_memory(tmp_path: Path, key: str) -> None:
    with h5py.File(tmp_path / "d.hdf5", "w") as file:
        imgs = {"shape": (10**9, 8, 8, 3)} if key == "imgs" else {"data": IMGS}
        file.create_dataset("imgs", dtype=np.uint8, **imgs)
        file.create_dataset("labels", (10**9 if key == "imgs" else 7,), np.int64)
    with pytest.raises(UserError, match=rf"{key} declares [\d,]+ bytes .* and stores 0"):
        load(tmp_path / "d.hdf5")


def test_labels_that_are_not_numbers(tmp_path: Path) -> None:
    file = write(tmp_path / "d.hdf5", imgs=IMGS, labels=np.full(7, np.nan))
    with pytest.raises(UserError, match="labels is float64"):
        load(file)
