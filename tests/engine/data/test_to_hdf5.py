from collections.abc import Callable, Iterator
from pathlib import Path

import h5py
import pytest
import torch

from topk_plugin.base.errors import UserError
from topk_plugin.engine.data import to_hdf5
from topk_plugin.engine.data.open import open_images
from topk_plugin.engine.data.reading import Reading
from topk_plugin.engine.data.to_hdf5 import write_hdf5


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(to_hdf5, "_BLOCK", 6)


@pytest.mark.parametrize("stream", [False, True])
def test_the_file_is_studiogans_and_gives_the_same_set(
    tmp_path: Path, class_folders: Callable[..., Path], stream: bool
) -> None:
    root = class_folders(tmp_path / "d", {"0": 9, "1": 11}, size=12)
    images = open_images("M", root, img_size=10, reading=Reading(stream=stream, num_workers=0))
    assert write_hdf5(images, tmp_path / "new" / "d.hdf5") == 0
    assert [file.name for file in (tmp_path / "new").iterdir()] == ["d.hdf5"]
    with h5py.File(tmp_path / "new" / "d.hdf5") as file:
        assert (file["imgs"].shape, file["imgs"].dtype) == ((20, 10, 10, 3), "uint8")
        assert file["labels"][:].tolist() == images.labels.tolist()
    for again in (False, True):
        reading = Reading(stream=again, num_workers=0)
        written = open_images(
            "M", tmp_path / "new" / "d.hdf5", img_size=10, num_classes=2, reading=reading
        )
        assert written.fingerprint() == images.fingerprint()


def test_a_killed_run_goes_on_and_another_set_starts_anew(
    tmp_path: Path, class_folders: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Killed(BaseException):
        pass

    images = open_images("M", class_folders(tmp_path / "d", {"a": 20}), img_size=8)
    other = open_images("M", class_folders(tmp_path / "e", {"a": 21}), img_size=8)
    blocks = to_hdf5._blocks
    made: list[int] = []

    def dies_after(many: int) -> Callable[..., Iterator[torch.Tensor]]:
        def some(*arguments: object) -> Iterator[torch.Tensor]:
            for number, block in enumerate(blocks(*arguments)):
                if number == many:
                    raise Killed
                made.append(len(block))
                yield block

        return some

    target = tmp_path / "d.hdf5"
    for many in (2, 1):
        monkeypatch.setattr(to_hdf5, "_blocks", dies_after(many))
        with pytest.raises(Killed):
            write_hdf5(images, target)
    assert not target.exists()
    with pytest.raises(Killed):
        write_hdf5(other, tmp_path / "d.hdf5")
    monkeypatch.setattr(to_hdf5, "_blocks", dies_after(99))
    made.clear()
    assert write_hdf5(other, target) == 6
    assert sum(made) == 15
    assert open_images("M", target, img_size=8).fingerprint() == other.fingerprint()
    with pytest.raises(UserError, match="there already"):
        write_hdf5(images, target)
