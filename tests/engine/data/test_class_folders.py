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
    assert found.describe("data") == (
        "data: 3 images (.jpg, .png, .webp) in 2 class folders; left out: 1 .txt"
    )


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
        (["Train/cat/1.png", "Val/cat/2.png", "Test/cat/3.png"], "train", "Train/cat/1.png"),
        (["Train/cat/1.png", "Val/cat/2.png", "Test/cat/3.png"], "valid", "Val/cat/2.png"),
        (["training/cat/1.png", "testing/cat/2.png"], "valid", "testing/cat/2.png"),
        (["TRAIN/cat/1.png", "VAL/cat/2.png"], "val", "VAL/cat/2.png"),
        (["training_set/cat/1.png", "validation-set/cat/2.png"], "val", "validation-set/cat/2.png"),
        (["train2017/cat/1.png", "val2017/cat/2.png"], "train", "train2017/cat/1.png"),
        (["a/Train/cat/1.png", "a/Test/cat/2.png", "a/README"], "test", "a/Test/cat/2.png"),
        (["a/b/train/cat/1.png", "a/b/val/cat/2.png", "x.txt"], "train", "a/b/train/cat/1.png"),
        (["test/cat/1.png", "testing/cat/2.png"], "test", "test/cat/1.png"),
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
        (["Train/1.png", "Test/2.png"], "train", "data/Train holds images but no class folder"),
        (
            ["train/cat/1.png", "Training/cat/2.png"],
            "valid",
            "data has no valid split: it holds Training, train",
        ),
        (["Train/cat/1.png", "train/cat/2.png"], "train", "one split in two spellings"),
        (["testing/c/1.png", "tests/c/2.png", "tst/c/1.png", "train/c/1.png"], "test", "which all"),
        (
            ["cat/train/1.png", "cat/test/2.png", "dog/train/1.png"],
            "train",
            r"class folders cat, dog with test, train inside them; put the splits outside",
        ),
        (
            ["train/cat/1.png", "valid/dog/1.png"],
            "valid",
            r"data/valid has the class folder dog, which the train split has not \(it has cat\)",
        ),
        (["train/cat/1.png", "valid/cat/x.txt"], "valid", "data/valid holds no image"),
    ],
)
def test_what_is_missing_is_said(entries: list[str], split: str, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        find_class_folders(entries, split=split, where="data")


@pytest.mark.parametrize("wrapper", ["", "one/", "one/two/"])
def test_folders_around_everything_are_looked_through(wrapper: str) -> None:
    found = find_class_folders(
        [wrapper + name for name in ("cat/1.png", "dog/2.png", "dog/deep/3.png")],
        split="train",
        where="data",
    )
    assert found.class_names == ("cat", "dog")
    assert found.files == tuple(wrapper + f for f in ("cat/1.png", "dog/2.png", "dog/deep/3.png"))
    assert found.describe("data").startswith(f"data/{wrapper}".rstrip("/") + ": 3 images")


def test_folders_of_shards_are_one_class_when_one_class_is_expected() -> None:
    shards = ["faces/000/1.png", "faces/001/2.png"]
    one = find_class_folders(shards, split="train", where="data", num_classes=1)
    assert (one.class_names, one.labels) == (("faces",), (0, 0))
    many = find_class_folders(shards, split="train", where="data", num_classes=2)
    assert (many.class_names, many.labels) == (("000", "001"), (0, 1))


def test_a_train_among_vehicles_is_a_class() -> None:
    found = find_class_folders(["bus/1.png", "train/2.png"], split="train", where="data")
    assert found.class_names == ("bus", "train")


def test_a_held_out_split_has_the_training_splits_labels() -> None:
    entries = ["train/cat/1.png", "train/dog/2.png", "train/eel/3.png", "Val/eel/4.png"]
    found = find_class_folders(entries, split="valid", where="data")
    assert found.class_names == ("cat", "dog", "eel")
    assert (found.files, found.labels) == (("Val/eel/4.png",), (2,))


def test_what_is_left_out_is_counted() -> None:
    found = find_class_folders(
        ["train/cat/1.png", "train/cat/2.heic", "train/cat/3.HEIC", "train/x.png", "extra/4.png"],
        split="train",
        where="data",
    )
    assert found.describe("data") == (
        "data/train: 1 images (.png) in 1 class folders; left out: extra/ beside the splits "
        "(1 image), 1 image outside of the class folders, 2 .heic"
    )


def test_ten_thousand_classes() -> None:
    entries = [f"top/{label:05d}/1.png" for label in range(10_000)]
    found = find_class_folders(entries, split="train", where="data", num_classes=10_000)
    assert found.labels == tuple(range(10_000))
