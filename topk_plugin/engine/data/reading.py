"""What the user may choose about reading image files."""

from dataclasses import dataclass

WHITE = (255, 255, 255)


@dataclass(frozen=True)
class Reading:
    """How files become images.

    Attributes:
        background: RGB, 0..255, of what lies behind transparent pixels.
        skip_damaged: leave out files that can't be decoded, and count them; otherwise they are
            refused, all in one sentence.
    """

    background: tuple[int, int, int] = WHITE
    skip_damaged: bool = False


PLAINLY = Reading()
