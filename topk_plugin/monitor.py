"""Statistics of top-k training -> TensorBoard and metrics.jsonl, for any training loop.

::

    monitor, log = TopKMonitor(topk, num_classes=10), RunLog(Path("runs/mine"))
    ...                                  # after each generator step
    monitor.update()
    if step % 100 == 0:
        log.scalars(step, monitor.scalars())
"""

import io
import json
import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from topk_plugin.files import atomic_write
from topk_plugin.plugin import TopK


class TopKMonitor:
    """Collects what the gate does, on the device, between two readings.

    Args:
        topk: an attached TopK.
        num_classes: number of classes, for the keep rate of each; needs a TopK that was attached
            with ``labels=...`` of 0 .. num_classes - 1. None: no keep rates. With several critic
            calls between two updates (gradient accumulation), the last one's batch counts.
    """

    def __init__(self, topk: TopK, num_classes: int | None = None) -> None:
        self._topk = topk
        self._num_classes = num_classes
        self._kept: Tensor | None = None
        self._seen: Tensor | None = None

    @torch.no_grad()
    def update(self) -> None:
        """Take in the last gated batch; does not synchronise with the host.

        Raises:
            RuntimeError: no batch has passed the gate yet.
        """
        stats = self._topk.stats
        if self._num_classes is None or stats.labels is None:
            return
        if self._kept is None or self._seen is None:
            self._kept = torch.zeros(self._num_classes, device=stats.mask.device)
            self._seen = torch.zeros_like(self._kept)
        self._kept.index_add_(0, stats.labels, stats.mask.to(self._kept.dtype))
        self._seen.index_add_(0, stats.labels, torch.ones_like(stats.mask, dtype=self._kept.dtype))

    def scalars(self) -> dict[str, float]:
        """Tag -> value, for the last batch; the keep rates since the last reading.

        Tags: ``topk/k``, ``topk/fraction_kept``, ``topk/threshold``, ``topk/score_kept_mean``,
        ``topk/score_dropped_mean`` (NaN while nothing is dropped), ``topk/nonfinite`` (over the
        whole training) and ``topk/keep_rate_class/<c>`` for each class seen. Synchronises once.

        Raises:
            RuntimeError: no batch has passed the gate yet.
        """
        stats = self._topk.stats
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
        scores = self._topk.stats.scores
        return scores[torch.isfinite(scores)]

    def kept_vs_dropped(self, images: Tensor, pairs: int = 8) -> Tensor | None:
        """The best kept and the worst dropped samples of the last batch, side by side.

        Args:
            images: [N, 3, H, W] in [-1, 1], what the critic was given (this rank's batch).
            pairs: most samples a side.

        Returns:
            [3, rows * H, 2 * columns * W + gap] in [0, 1]: kept to the left, dropped to the right,
            best and worst first; None while nothing is dropped, or for a batch of several ranks.
        """
        stats = self._topk.stats
        count = min(pairs, int(stats.k), stats.mask.shape[0] - int(stats.k))
        if count == 0 or images.shape[0] != stats.mask.shape[0]:
            return None
        sign = 1.0 if stats.higher_is_better else -1.0
        goodness = (sign * stats.scores.double()).nan_to_num(-math.inf, -math.inf, -math.inf)
        best = goodness.masked_fill(~stats.mask, -math.inf).argsort(descending=True)[:count]
        worst = goodness.masked_fill(stats.mask, math.inf).argsort()[:count]
        left, right = (_tile(images.detach()[rows].float()) for rows in (best, worst))
        gap = torch.ones(3, left.shape[1], 4, device=left.device)
        return torch.cat([left, gap, right], dim=2).add(1).div(2).clamp(0, 1).cpu()


def _tile(images: Tensor) -> Tensor:
    """[n, 3, H, W] -> [3, rows * H, columns * W], at most 4 columns; empty places are white."""
    columns = min(4, images.shape[0])
    missing = -images.shape[0] % columns
    if missing:
        images = torch.cat([images, images.new_ones(missing, *images.shape[1:])])
    rows = images.unflatten(0, (-1, columns))  # [rows, columns, 3, H, W]
    return rows.permute(2, 0, 3, 1, 4).flatten(3, 4).flatten(1, 2)


class RunLog:
    """``metrics.jsonl`` and ``tensorboard/`` in a run's folder; what is in both agrees.

    Args:
        folder: the run's folder; made if missing.
        resume_step: the run goes on after this step: later entries of an earlier attempt are
            removed from ``metrics.jsonl`` and hidden in TensorBoard. None: a new run.
        events: the folder of TensorBoard's files; default: ``tensorboard`` in ``folder``.
    """

    def __init__(
        self, folder: Path, resume_step: int | None = None, events: Path | None = None
    ) -> None:
        from torch.utils.tensorboard.writer import SummaryWriter  # heavy: only when logging

        self._path = folder / "metrics.jsonl"
        folder.mkdir(parents=True, exist_ok=True)
        if resume_step is not None and self._path.exists():
            self._forget_after(resume_step)
        purge = None if resume_step is None else resume_step + 1
        self._writer = SummaryWriter(str(events or folder / "tensorboard"), purge_step=purge)

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Log tag -> value at ``step``; a value that is not finite is null in ``metrics.jsonl``."""
        line: dict[str, Any] = {"step": step, "time": round(time.time(), 3)}
        for tag, value in values.items():
            line[tag] = value if math.isfinite(value) else None
            self._writer.add_scalar(tag, value, step)
        with open(self._path, "a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")

    def histogram(self, step: int, tag: str, values: Tensor) -> None:
        """Log the distribution of ``values`` (any shape) in TensorBoard; nothing when empty."""
        if values.numel() > 0:
            self._writer.add_histogram(tag, values.detach().float().cpu(), step)

    def image(self, step: int, tag: str, image: Tensor) -> None:
        """Log an image [3, H, W] in [0, 1] in TensorBoard."""
        self._writer.add_image(tag, image, step)

    def close(self) -> None:
        """Write out what is buffered."""
        self._writer.close()

    def _forget_after(self, step: int) -> None:
        kept = io.StringIO()
        for line in self._path.read_text(encoding="utf-8").splitlines():
            try:
                entry = json.loads(line)
            except json.JSONDecodeError:
                break  # the line that a killed run was writing
            if entry["step"] <= step:
                kept.write(line + "\n")
        with atomic_write(self._path) as temporary:
            temporary.write_text(kept.getvalue(), encoding="utf-8")
