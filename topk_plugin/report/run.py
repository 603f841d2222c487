"""A run as a report sees it, whatever trained it."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Values = NDArray[np.float64]

KEEP_RATE = "topk/keep_rate_class/"
METRIC = "metric/"
KEPT_VS_DROPPED = "topk/kept_vs_dropped"
SCORES = "topk/scores"
SAMPLES = "samples"


@dataclass(frozen=True)
class Series:
    """One curve.

    Attributes:
        steps: [N], rising.
        values: [N]; NaN where the value was not finite.
    """

    steps: Values
    values: Values


@dataclass(frozen=True)
class Histogram:
    """Scores of one batch, counted.

    Attributes:
        step: when.
        edges: [N + 1], rising.
        counts: [N].
    """

    step: int
    edges: Values
    counts: Values


@dataclass(frozen=True)
class Picture:
    """A picture of one step: a file, or the encoded bytes from an event file."""

    step: int
    source: Path | bytes

    def read(self) -> bytes:
        """The encoded picture.

        Raises:
            OSError: the file can't be read.
        """
        return self.source if isinstance(self.source, bytes) else self.source.read_bytes()


@dataclass(frozen=True)
class Notice:
    """Something that a run said about itself, a warning mostly; ``step``: None before the first."""

    text: str
    step: int | None = None


@dataclass(frozen=True)
class Run:
    """One run.

    Attributes:
        name: short, different for each run of a page.
        folder: where it is.
        trained_by: in words.
        state: "finished", "running", "stopped", "diverged", or what else is known.
        total_steps: how long it is to be; None: nobody said.
        settings: SECTION.key (or another program's names) -> value as text.
        environment: versions and hardware; {} where nothing was left.
        result: result.json of a run that is over; {} before.
        measured_with: what the metrics were measured with; {} where nothing was left.
        scalars: tag -> curve.
        histograms: of the critic's scores, in the order of steps.
        pictures: "samples" or a tag -> pictures in the order of steps.
        class_names: in the order of labels; () where nobody said.
        notices: what it said.
    """

    name: str
    folder: Path
    trained_by: str
    state: str
    total_steps: int | None
    settings: dict[str, str]
    environment: dict[str, Any]
    result: dict[str, Any]
    measured_with: dict[str, Any]
    scalars: dict[str, Series]
    histograms: list[Histogram] = field(default_factory=list)
    pictures: dict[str, list[Picture]] = field(default_factory=dict)
    class_names: tuple[str, ...] = ()
    notices: list[Notice] = field(default_factory=list)

    @property
    def last_step(self) -> int:
        """The last step of which anything is known."""
        ends = [int(series.steps[-1]) for series in self.scalars.values() if len(series.steps)]
        ends += [pictures[-1].step for pictures in self.pictures.values() if pictures]
        return max(ends, default=0)

    def class_name(self, label: int) -> str:
        """The name of a class, its number where it has none."""
        return self.class_names[label] if label < len(self.class_names) else str(label)
