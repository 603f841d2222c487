"""What the user may choose about reading images."""

import os
from dataclasses import dataclass

WHITE = (255, 255, 255)


@dataclass(frozen=True)
class Reading:
    """How files become images, and where these are kept.

    Attributes:
        background: RGB, 0..255, of what lies behind transparent pixels.
        skip_damaged: leave out files that can't be decoded, and count them; otherwise they are
            refused, all in one sentence.
        stream: make the images anew in every epoch instead of holding them in memory; None: when
            they would take more than ``memory``.
        num_workers: processes that make streamed images; None: one a processor, at most 8.
        memory: bytes that images may take; None: half of what is free.
    """

    background: tuple[int, int, int] = WHITE
    skip_damaged: bool = False
    stream: bool | None = None
    num_workers: int | None = None
    memory: int | None = None

    @property
    def workers(self) -> int:
        """How many processes make streamed images."""
        return min(8, os.cpu_count() or 1) if self.num_workers is None else self.num_workers


PLAINLY = Reading()
