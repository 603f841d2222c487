"""StudioGAN's own refusals of what it was given, apart from failures in the middle of its work."""

import re
import traceback
from pathlib import Path

# Where StudioGAN refuses a key that it does not know, by an AttributeError.
READER_OF_CONFIGS = "_overwrite_cfgs"

_FRAME = re.compile(r'^ *File "(.+)", line (\d+)', re.MULTILINE)
_ASSERTION = re.compile(r"^AssertionError: (.+)\Z", re.MULTILINE | re.DOTALL)


def refusal(error: BaseException, source: Path) -> str | None:
    """What StudioGAN says and where, if ``error`` is one of its asserts; None if it is not.

    A key that it does not know counts as one; an assert without words does not.

    Args:
        error: as it was raised in this process.
        source: the checkout's folder ``src``.
    """
    *_, innermost = traceback.extract_tb(error.__traceback__) or [None]
    if innermost is None or not error.args or not isinstance(error.args[0], str):
        return None
    if not (
        isinstance(error, AssertionError)
        or (isinstance(error, AttributeError) and innermost.name == READER_OF_CONFIGS)
    ):
        return None
    return _located(error.args[0], innermost.filename, innermost.lineno, source)


def refusal_in_text(printed: str, source: Path) -> str | None:
    """The same of a traceback that another process has printed."""
    frames, said = _FRAME.findall(printed), _ASSERTION.search(printed.rstrip())
    if not frames or said is None:
        return None
    file, line = frames[-1]
    return _located(said[1], file, int(line), source)


def _located(said: str, file: str, line: int | None, source: Path) -> str | None:
    path = Path(file).resolve()
    if not path.is_relative_to(source):
        return None
    sentence = " ".join(said.split())
    return f"StudioGAN: {sentence} ({path.relative_to(source.parent)}, line {line})"
