import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits

from topk_plugin.base.errors import UserError
from topk_plugin.engine.data.open import open_images

Write = Callable[..., Path]


def test_digits_are_the_bundled_images_enlarged() -> None:
    loaded = open_images("Digits", None, img_size=32, num_classes=10)
    bundled = load_digits()
    assert loaded.images.shape == (1797, 3, 32, 32)
    assert loaded.labels.tolist() == bundled.target.tolist()
    assert torch.equal(loaded.images[:, 0], loaded.images[:, 1])
    assert torch.equal(loaded.images[:, 0], loaded.images[:, 2])
    # Averaged over each 4x4 patch, the enlarged image is the small one but for the blur.
    small = torch.nn.functional.avg_pool2d(loaded.images[:, 0].float(), 4) * (16 / 255)
    error = (small - torch.from_numpy(bundled.images)).abs()
    assert error.mean() < 1
    # ... and blurred it is: there are more gray levels than the 17 of the small images.
    assert len(loaded.images.unique()) > 200
    as_they_are = open_images("Digits", None, img_size=8)
    assert (as_they_are.images[:, 0].numpy() == np.rint(bundled.images * 255 / 16)).all()


def test_the_same_images_by_folder_zip_and_hdf5(tmp_path: Path, class_folders: Write) -> None:
    root = class_folders(tmp_path / "d", {"0": 2, "1": 3})
    by_folder = open_images("Mine", root, img_size=8, num_classes=2)
    with zipfile.ZipFile(tmp_path / "d.ZIP", "w") as packed:
        for file in root.rglob("*.png"):
            packed.write(file, file.relative_to(root))
    with h5py.File(tmp_path / "d.h5", "w") as file:
        file["imgs"] = by_folder.images.permute(0, 2, 3, 1).numpy()
        file["labels"] = by_folder.labels.numpy()
    for path in (tmp_path / "d.ZIP", tmp_path / "d.h5"):
        other = open_images("Mine", path, img_size=8, num_classes=2)
        assert other.fingerprint() == by_folder.fingerprint()
        assert other.class_names == ("0", "1")


def test_a_path_goes_before_the_name(tmp_path: Path, class_folders: Write) -> None:
    root = class_folders(tmp_path / "d", {"a": 1, "b": 1})
    for name in ("Digits", "CIFAR10", "Mine"):
        loaded = open_images(name, root, img_size=8)
        assert (loaded.name, loaded.class_names) == (name, ("a", "b"))


def test_images_are_cropped_and_resized(tmp_path: Path) -> None:
    (tmp_path / "d" / "all").mkdir(parents=True)
    image = Image.new("L", (30, 10), 0)
    image.paste(200, (10, 0, 20, 10))
    image.save(tmp_path / "d" / "all" / "wide.png")
    loaded = open_images("Mine", tmp_path / "d", img_size=16, num_classes=1)
    assert torch.equal(loaded.images, torch.full((1, 3, 16, 16), 200, dtype=torch.uint8))


@pytest.mark.parametrize(
    ("name", "path", "arguments", "sentence"),
    [
        ("Mine", None, {}, "'Mine' comes with no images"),
        ("Mine", "nowhere", {}, "nowhere does not exist"),
        ("Mine", "notes.txt", {}, r"notes\.txt ends in '\.txt'; allowed are \.zip"),
        ("Mine", "plain", {}, "ends in 'nothing'"),
        ("Mine", "empty", {}, "no images in class folders"),
        ("CIFAR10", "empty", {}, "could not be downloaded"),
        ("Mine", "d", {"split": "training"}, "Unknown split 'training'; choose one of train"),
        ("Mine", "d", {"split": "test"}, "class folders only"),
        ("Digits", None, {"split": "valid"}, "no valid split"),
        ("Mine", "d", {"num_classes": 10}, r"num_classes is 10, but .*d has 2 classes \(a, b\)"),
        ("Digits", None, {"num_classes": 2}, "Digits has 10 classes .0, 1, 2, 3, 4, ..."),
    ],
)
def test_mistakes_end_in_one_sentence(
    tmp_path: Path,
    class_folders: Write,
    name: str,
    path: str | None,
    arguments: dict,
    sentence: str,
) -> None:
    class_folders(tmp_path / "d", {"a": 1, "b": 1})
    (tmp_path / "empty").mkdir()
    (tmp_path / "notes.txt").write_text("x")
    (tmp_path / "plain").write_text("x")
    with pytest.raises(UserError, match=sentence):
        open_images(name, tmp_path / path if path else None, img_size=8, **arguments)


def test_img_size_must_be_positive() -> None:
    with pytest.raises(ValueError, match="img_size"):
        open_images("Digits", None, img_size=0)


def test_heavy_libraries_are_not_imported_before_they_are_needed() -> None:
    code = (
        "import sys; import topk_plugin.engine.data.open; "
        "print([m for m in ('torchvision', 'sklearn', 'h5py') if m in sys.modules])"
    )
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert printed.stdout.strip() == "[]", printed.stderr
