import pytest

from topk_plugin.base.errors import UserError
from topk_plugin.engine.data.class_folders import find_class_folders


def test_classes_and_files_are_sorted_and_other_files_left_out() -> None:
    found = find_class_folders(
        ["dog/b.JPG", "dog/a.png", "cat/deep/x.webp", "cat/notes.txt", "README.md", "dog/"],
        split="train",
        where="data",
    )
    assert found.class_names == ("cat", "dog")
    assert found.files == ("cat/deep/x.webp", "dog/a.png", "dog/b.JPG")
    assert found.labels == (0, 1, 1)
    assert found.describe("data") == "data: 3 images (.jpg, .png, .webp) in 2 class folders"


def test_hidden_files_and_mac_leftovers_are_ignored() -> None:
    found = find_class_folders(
        [
            "cat/1.png",
            "cat/._1.png",
            "__MACOSX/cat/1.png",
            ".git/x.png",
            ".DS_Store",
            "cat/.t/2.png",
        ],
        split="train",
        where="data",
    )
    assert found.files == ("cat/1.png",)


SPLIT_FOLDERS = ["train/cat/1.png", "valid/cat/2.png", "test/cat/3.png", "labels/x.png"]


@pytest.mark.parametrize(
    ("entries", "split", "file"),
    [
        (SPLIT_FOLDERS, "train", "train/cat/1.png"),
        (SPLIT_FOLDERS, "valid", "valid/cat/2.png"),
        (SPLIT_FOLDERS, "test", "test/cat/3.png"),
        (SPLIT_FOLDERS, "val", "valid/cat/2.png"),
        (SPLIT_FOLDERS[:2], "test", "valid/cat/2.png"),
        (["train/cat/1.png", "val/cat/2.png", "train"], "valid", "val/cat/2.png"),
        (["test/cat/3.png"], "test", "test/cat/3.png"),
        (["train", "train/", "train/cat/1.png"], "train", "train/cat/1.png"),
    ],
)
def test_split_folders(entries: list[str], split: str, file: str) -> None:
    found = find_class_folders(entries, split=split, where="data")
    assert found.files == (file,)
    assert found.class_names == ("cat",)


def test_a_class_called_test_is_a_class_when_there_is_no_train_folder() -> None:
    found = find_class_folders(["test/1.png", "toast/2.png"], split="train", where="data")
    assert found.class_names == ("test", "toast")


@pytest.mark.parametrize(
    ("entries", "split", "sentence"),
    [
        ([], "train", "data holds no images in class folders"),
        (["a.png", "b.jpg"], "train", "data holds images but no class folder"),
        (["notes.txt"], "train", "no images in class folders"),
        (["cat/1.png", "dog/"], "train", "data/dog holds no image"),
        (["cat/1.png", "dog/notes.txt"], "train", "data/dog holds no image"),
        (["train/1.png"], "train", "data/train holds images but no class folder"),
        (["train/"], "train", "data/train holds no images in class folders"),
        (["cat/1.png"], "test", "class folders only, which are the train split"),
        (["train/cat/1.png"], "valid", "has no valid split: it holds train"),
        (["valid/cat/1.png"], "train", "has no train split: it holds valid"),
    ],
)
def test_what_is_missing_is_said(entries: list[str], split: str, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        find_class_folders(entries, split=split, where="data")
