"""TensorBoard's event files -> curves, histograms and pictures."""

import logging
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from topk_plugin.report.run import SCORES, Histogram, Picture, Series
from topk_plugin.report.scalars_file import series_of

PATTERN = "events.out.tfevents.*"
_EVERYTHING = {"images": 0, "histograms": 0, "scalars": 0}


@dataclass(frozen=True)
class Events:
    """What the event files of a folder hold.

    Attributes:
        scalars: tag -> curve.
        histograms: of the tag ``topk/scores``.
        pictures: tag -> pictures.
    """

    scalars: dict[str, Series] = field(default_factory=dict)
    histograms: list[Histogram] = field(default_factory=list)
    pictures: dict[str, list[Picture]] = field(default_factory=dict)


def read_events(folder: Path) -> Events:
    """All event files of a folder together; the end of a file that is being written is left out.

    What a run logged before it was killed, after the step that it went on from, is hidden, as in
    TensorBoard.
    """
    if not any(folder.glob(PATTERN)):
        return Events()
    # slow to import; only here
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    logging.getLogger("tensorboard").setLevel(logging.ERROR)  # a cut-off file is no error here
    accumulator = EventAccumulator(str(folder), size_guidance=_EVERYTHING)
    accumulator.Reload()
    tags = accumulator.Tags()
    scalars = {
        tag: series_of({event.step: event.value for event in accumulator.Scalars(tag)})
        for tag in tags["scalars"]
    }
    pictures = {
        tag: [Picture(e.step, e.encoded_image_string) for e in accumulator.Images(tag)]
        for tag in tags["images"]
    }
    histograms = []
    if SCORES in tags["histograms"]:
        histograms = [
            _histogram(event.step, event.histogram_value)
            for event in accumulator.Histograms(SCORES)
        ]
    return Events(scalars, histograms, pictures)


def _histogram(step: int, value: Any) -> Histogram:
    """TensorBoard keeps upper ends of buckets; what lies outside of all values is cut away."""
    limits = np.array(value.bucket_limit, np.float64)
    counts = np.array(value.bucket, np.float64)
    low, high = float(value.min), float(value.max)
    edges = np.concatenate([[min(low, limits[0])], limits]).clip(low, high)
    return Histogram(step, edges, counts)
