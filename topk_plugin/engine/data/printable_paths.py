"""Names from file systems, for the eyes of people."""

import os


def printable(name: str | os.PathLike[str]) -> str:
    """The name as text that every file and terminal can take.

    File names are bytes: those that are not UTF-8 come as lone surrogates, which can't be written
    anywhere. They are shown as ``\\xe9``.
    """
    return os.fsencode(name).decode("utf-8", "backslashreplace")
