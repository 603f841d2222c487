"""Fewer points and pictures, so that a page stays small."""

import io
import itertools
from collections.abc import Sequence

import numpy as np
from PIL import Image

from topk_plugin.report.run import Picture, Series

MOST_POINTS = 1000
QUALITY = 85  # of WebP: at it, artefacts of small images can't be told from those of the generator


def thinned(series: Series, most: int = MOST_POINTS) -> Series:
    """The curve with ``most`` points or few more; the extremes of every stretch stay.

    Args:
        series: a curve.
        most: 2 or more.
    """
    count = len(series.steps)
    if count <= most:
        return series
    edges = np.linspace(0, count, most // 2 + 1).astype(int)
    kept = {0, count - 1}
    for low, high in itertools.pairwise(edges):
        stretch = series.values[low:high]
        if np.isnan(stretch).all():
            kept.add(int(low))  # a gap stays one
        else:
            kept |= {int(low + np.nanargmin(stretch)), int(low + np.nanargmax(stretch))}
    places = sorted(kept)
    return Series(series.steps[places], series.values[places])


def spread_out(count: int, most: int) -> list[int]:
    """Up to ``most`` of ``count`` places, evenly spaced, the first and the last among them."""
    if count <= most:
        return list(range(count))
    return sorted({round(place) for place in np.linspace(0, count - 1, most)})


def fitting(pictures: Sequence[Picture], budget: int) -> list[tuple[int, bytes]]:
    """As many pictures as fit, evenly spread over the steps, as WebP.

    Args:
        pictures: in the order of steps; one that can't be read (half written) is left out.
        budget: bytes for all of them together. The last one is always among them.

    Returns:
        (step, WebP) in the order of steps.
    """
    if not pictures:
        return []
    last = _as_webp(pictures[-1])
    most = max(1, budget // max(1, len(last or b"x" * 50_000)))
    while True:
        found = [
            (pictures[place].step, encoded)
            for place in (spread_out(len(pictures), most) if most > 1 else [len(pictures) - 1])
            if (encoded := _as_webp(pictures[place])) is not None
        ]
        size = sum(len(encoded) for _, encoded in found)
        if size <= budget or most == 1:
            return found
        most = max(1, min(most - 1, int(most * budget / size)))


def _as_webp(picture: Picture) -> bytes | None:
    """The picture as WebP, or as it was where that is smaller; None where it can't be read."""
    try:
        before = picture.read()
        with Image.open(io.BytesIO(before)) as image:
            after = io.BytesIO()
            image.convert("RGB").save(after, format="WEBP", quality=QUALITY, method=4)
    except (OSError, ValueError):
        return None
    encoded = after.getvalue()
    return min(before, encoded, key=len)
