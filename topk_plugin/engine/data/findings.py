"""What the files of a set turned out to be: damage, depths, endings that lie."""

from collections.abc import Sequence

from topk_plugin.base.errors import UserError
from topk_plugin.engine.data.colours import white_of
from topk_plugin.engine.data.picture import Picture
from topk_plugin.engine.data.printable_paths import printable

_NAMED = 10


class Findings:
    """Gathered file by file (from several threads), and told once for the whole set.

    Attributes:
        damaged: why a file gives no image, by its index.
    """

    def __init__(self) -> None:
        self.damaged: dict[int, str] = {}
        self._gray: dict[int, int] = {}
        self._colour: dict[int, int] = {}
        self._frames: set[int] = set()
        self._true_formats: dict[int, str] = {}

    def add(self, index: int, picture: Picture) -> None:
        """Take in what file ``index`` gave."""
        if picture.maximum is not None:
            (self._colour if picture.colour else self._gray)[index] = picture.maximum
        if picture.frames:
            self._frames.add(index)
        if picture.true_format is not None:
            self._true_formats[index] = picture.true_format

    @property
    def deep(self) -> list[int]:
        """The files of gray values of more than 8 bits whose range they don't say."""
        return sorted(self._gray)

    @property
    def white(self) -> int | None:
        """What means white in the ``deep`` files; None when there are none."""
        return white_of(max(self._gray.values())) if self._gray else None

    def check(self, files: Sequence[str], where: str, *, skip_damaged: bool) -> None:
        """Refuse damaged files, and colours of which nothing but black could be read.

        Raises:
            UserError: it names the first ten files and the count.
        """
        if self.damaged and not skip_damaged:
            raise UserError(
                f"{len(self.damaged)} of {len(files)} files of {where} can't be decoded: "
                f"{self._named(files, where)}; replace or remove "
                f"{'it' if len(self.damaged) == 1 else 'them'}, or leave damaged files out with "
                f"--skip_damaged"
            )
        if len(self.damaged) == len(files):
            raise UserError(
                f"None of the {len(files)} files of {where} can be decoded: "
                f"{self._named(files, where)}; give other data"
            )
        # 16 bits of which only the lower 14 or fewer are used: the high byte is below 64.
        if self._colour and max(self._colour.values()) < 64:
            first = printable(files[min(self._colour)])
            raise UserError(
                f"{where}/{first} has colours of 16 bits, of which it uses fewer, as do all "
                f"{len(self._colour)} such files here; only their high bytes can be read, which "
                f"would be nearly black: convert them to 8 bits"
            )

    def _named(self, files: Sequence[str], where: str) -> str:
        first = sorted(self.damaged)[:_NAMED]
        named = ", ".join(
            f"{where}/{printable(files[index])} ({self.damaged[index]})" for index in first
        )
        more = len(self.damaged) - len(first)
        return named + (f" and {more} more" if more else "")

    def notes(self, files: Sequence[str]) -> str:
        """Words on all that was not plain, to be added to the line of provenance; or ""."""
        notes = []
        if self.damaged:
            notes.append(f"skipped: {_count(self.damaged)} damaged")
        if self.white is not None:
            notes.append(
                f"{_count(self._gray)} of more than 8 bits: largest value "
                f"{max(self._gray.values())}, read as {self.white.bit_length()}-bit gray"
            )
        if self._frames:
            notes.append(f"{_count(self._frames)} of several frames: the first is used")
        if self._true_formats:
            first = min(self._true_formats)
            notes.append(
                f"{_count(self._true_formats)} not of the format that the name says "
                f"({printable(files[first])} is {self._true_formats[first]})"
            )
        return "".join(f"; {note}" for note in notes)


def _count(found: dict[int, str] | dict[int, int] | set[int]) -> str:
    return f"{len(found)} file{'s' * (len(found) > 1)}"
