"""Statistics of top-k training -> TensorBoard and metrics.jsonl, for any training loop.

::

    monitor, log = TopKMonitor(topk, num_classes=10), RunLog(Path("runs/mine"))
    ...                                  # after each generator step
    monitor.update()
    if step % 100 == 0:
        monitor.log(log, step)           # now and then with the batch's images too
"""

import math
from collections.abc import Mapping
from typing import Protocol

import torch
from torch import Tensor

from topk_plugin.gate.topk import TopK


class Log(Protocol):
    """What :meth:`TopKMonitor.log` writes to, such as a :class:`topk_plugin.RunLog`."""

    def scalars(self, step: int, values: Mapping[str, float]) -> None: ...

    def histogram(self, step: int, tag: str, values: Tensor) -> None: ...

    def image(self, step: int, tag: str, image: Tensor) -> None: ...


class TopKMonitor:
    """Collects what the gate does, on the device, between two readings.

    Args:
        topk: an attached TopK.
        num_classes: number of classes, for the keep rate of each; needs a TopK that was attached
            with ``labels=...`` of 0 .. num_classes - 1. None: no keep rates. With several
            selections between two updates (gradient accumulation), the last one counts.
    """

    def __init__(self, topk: TopK, num_classes: int | None = None) -> None:
        self.topk = topk
        self._num_classes = num_classes
        self._kept: Tensor | None = None
        self._seen: Tensor | None = None

    @torch.no_grad()
    def update(self) -> None:
        """Take in the last gated batch; does not synchronise with the host.

        Raises:
            RuntimeError: no batch has passed the gate yet.
        """
        stats = self.topk.stats
        if self._num_classes is None or stats.labels is None:
            return
        if self._kept is None or self._seen is None:
            self._kept = torch.zeros(self._num_classes, device=stats.mask.device)
            self._seen = torch.zeros_like(self._kept)
        self._kept.index_add_(0, stats.labels, stats.mask.to(self._kept.dtype))
        self._seen.index_add_(0, stats.labels, torch.ones_like(stats.mask, dtype=self._kept.dtype))

    def log(self, log: Log, step: int, images: Tensor | None = None) -> None:
        """Log :meth:`scalars`; with images also the histogram and the picture.

        Args:
            log: where to.
            step: where on the curves.
            images: [B, C, H, W] in [-1, 1] that passed the gate last: then ``topk/scores`` and,
                once something is dropped, ``topk/kept_vs_dropped`` are logged too.

        Raises:
            RuntimeError: no batch has passed the gate yet.
            ValueError: images are of another shape.
        """
        log.scalars(step, self.scalars())
        if images is None:
            return
        log.histogram(step, "topk/scores", self.scores())
        picture = self.kept_vs_dropped(images)
        if picture is not None:
            log.image(step, "topk/kept_vs_dropped", picture)

    def scalars(self) -> dict[str, float]:
        """Tag -> value, for the last batch; the keep rates since the last reading.

        Tags: ``topk/k``, ``topk/fraction_kept``, ``topk/threshold``, ``topk/score_kept_mean``,
        ``topk/score_dropped_mean`` (NaN while nothing is dropped), ``topk/nonfinite`` (over the
        whole training) and ``topk/keep_rate_class/<c>`` for each class seen. Synchronises once.

        Raises:
            RuntimeError: no batch has passed the gate yet.
        """
        stats = self.topk.stats
        tensors = {
            "topk/k": stats.k,
            "topk/threshold": stats.threshold,
            "topk/score_kept_mean": stats.score_kept_mean,
            "topk/score_dropped_mean": stats.score_dropped_mean,
            "topk/nonfinite": stats.nonfinite_total,
        }
        if self._kept is not None and self._seen is not None:
            rates = self._kept / self._seen
            tensors |= {f"topk/keep_rate_class/{c}": rate for c, rate in enumerate(rates)}
            self._kept = self._seen = None
        # one transfer for all of them
        values = torch.stack([t.to(torch.float64) for t in tensors.values()]).tolist()
        scalars = dict(zip(tensors, values, strict=True))
        scalars["topk/fraction_kept"] = scalars["topk/k"] / stats.mask.shape[0]
        return {
            tag: value
            for tag, value in scalars.items()
            if not (tag.startswith("topk/keep_rate_class/") and math.isnan(value))
        }

    def scores(self) -> Tensor:
        """[B] finite critic scores of the last batch, for a histogram (``topk/scores``)."""
        scores = self.topk.stats.scores
        return scores[torch.isfinite(scores)]

    def kept_vs_dropped(self, images: Tensor, pairs: int = 8) -> Tensor | None:
        """The best kept and the worst dropped samples of the last batch, side by side.

        Args:
            images: [N, C, H, W] in [-1, 1], what the critic was given last (this rank's batch or
                micro-batch): grey (C = 1), red, green and blue, or more channels, of which the
                first three are shown.
            pairs: most samples a side.

        Returns:
            [3, rows * H, 2 * columns * W + gap] in [0, 1]: kept to the left, dropped to the right,
            best and worst first; None while nothing is dropped, or for a batch of several ranks.

        Raises:
            ValueError: images are of another shape.
        """
        if images.dim() != 4 or images.shape[1] == 0:
            raise ValueError(
                f"kept_vs_dropped shows images [N, channels, height, width], not "
                f"{list(images.shape)}"
            )
        stats = self.topk.stats_of_last_call
        count = min(pairs, int(stats.k), stats.mask.shape[0] - int(stats.k))
        if count == 0 or images.shape[0] != stats.mask.shape[0]:
            return None
        sign = 1.0 if stats.higher_is_better else -1.0
        goodness = (sign * stats.scores.double()).nan_to_num(-math.inf, -math.inf, -math.inf)
        best = goodness.masked_fill(~stats.mask, -math.inf).argsort(descending=True)[:count]
        worst = goodness.masked_fill(stats.mask, math.inf).argsort()[:count]
        left, right = (_tile(_in_colour(images.detach()[rows])) for rows in (best, worst))
        gap = torch.ones(3, left.shape[1], 4, device=left.device)
        return torch.cat([left, gap, right], dim=2).add(1).div(2).clamp(0, 1).cpu()


def _in_colour(images: Tensor) -> Tensor:
    """[n, C, H, W] -> [n, 3, H, W] fp32: grey three times, two channels and a black one."""
    channels = images.shape[1]
    if channels == 1:
        return images.float().expand(-1, 3, -1, -1)
    if channels == 2:
        return torch.cat([images, -torch.ones_like(images[:, :1])], 1).float()
    return images[:, :3].float()


def _tile(images: Tensor) -> Tensor:
    """[n, 3, H, W] -> [3, rows * H, columns * W], at most 4 columns; empty places are white."""
    columns = min(4, images.shape[0])
    missing = -images.shape[0] % columns
    if missing:
        images = torch.cat([images, images.new_ones(missing, *images.shape[1:])])
    rows = images.unflatten(0, (-1, columns))  # [rows, columns, 3, H, W]
    return rows.permute(2, 0, 3, 1, 4).flatten(3, 4).flatten(1, 2)
