"""Folder names that mean a split, in the spellings that people use."""

import re

# What may be asked for. valid and val are one split.
SPLITS = ("train", "valid", "val", "test")
_NOUNS = "(?:data|dataset|images?|imgs?|set|split)?"
_SPELLINGS = {
    "train": re.compile(f"{_NOUNS}(?:train|training|trn){_NOUNS}"),
    "valid": re.compile(f"{_NOUNS}(?:valid|val|validation|validate|dev){_NOUNS}"),
    "test": re.compile(f"{_NOUNS}(?:test|testing|tst|holdout|heldout){_NOUNS}"),
}


def split_meant_by(folder: str) -> str | None:
    """Which of train, valid and test a folder's name means; None: none of them.

    Case, digits and separators don't count: ``Training_Set``, ``01-train`` and ``val2017`` are
    recognised.
    """
    letters = re.sub(r"[\W\d_]", "", folder.casefold())
    return next((kind for kind, pattern in _SPELLINGS.items() if pattern.fullmatch(letters)), None)


def stand_ins(split: str) -> tuple[str, ...]:
    """The kinds of folders that may serve as ``split`` (of ``SPLITS``), the best first.

    StudioGAN asks for ``valid`` whatever is being evaluated, so the two kinds of held-out images
    stand in for one another.
    """
    if split == "train":
        return ("train",)
    return ("test", "valid") if split == "test" else ("valid", "test")
