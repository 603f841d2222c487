"""Do two feature extractors put trained GANs in the same order? One command, one table.

    python -m benchmarks.evaluation.agreement RUNS -data TRAIN -ref TEST --runs runs/agreement

RUNS are folders of trainings, or folders that hold such: every checkpoint below them is measured
with both extractors on the same images. What is measured already is not measured again: stopped,
the same command goes on.
"""

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy import stats

from benchmarks.common import save_result
from topk_plugin.base.errors import UserError
from topk_plugin.base.files import write_json
from topk_plugin.engine.checkpoint import Checkpoint, load_checkpoint
from topk_plugin.engine.data.open import open_images
from topk_plugin.engine.run import evaluate_generator
from topk_plugin.evaluation.evaluator import Evaluator

METRICS = ("fid", "kid", "prdc")
EXTRACTORS = ("builtin", "imagenet")
MEASURES = {
    # name -> whether its logarithm is compared
    "frechet_distance": True,
    "kernel_distance": False,
    "precision": False,
    "recall": False,
    "density": False,
    "coverage": False,
}
FEWEST = 4
"""Checkpoints below which a correlation and its interval mean nothing."""


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folders", nargs="+", type=Path, metavar="RUNS")
    parser.add_argument("-data", type=Path, required=True, help="training images")
    parser.add_argument("-ref", type=Path, required=True, help="images to compare with")
    parser.add_argument("--samples", type=int, default=2500, help="images of a generator")
    parser.add_argument("--runs", type=Path, required=True, help="where what is measured is kept")
    parser.add_argument("--save", type=Path, help="folder of README.md and results.json")
    options = parser.parse_args(arguments)
    try:
        rows = _measured(options)
        if len(rows) < FEWEST:
            raise UserError(
                f"{len(rows)} checkpoints are too few for a correlation; give at least {FEWEST}, "
                "of different quality"
            )
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    result = {
        "command": "python -m benchmarks.evaluation.agreement RUNS -data TRAIN -ref TEST "
        f"--samples {options.samples} --runs runs/agreement",
        "samples": options.samples,
        "checkpoints": rows,
        "agreement": agreement(rows),
    }
    print(report(result))
    if options.save is not None:
        save_result(options.save, result, report)
    return 0


def _measured(options: argparse.Namespace) -> list[dict[str, Any]]:
    """A row a checkpoint: ``run``, ``step``, and the values by extractor."""
    file = options.runs / "results.json"
    kept: dict[str, Any] = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    found = list(_checkpoints(options.folders))
    if not found:
        raise UserError(f"no checkpoint below {options.folders[0]}; give folders of trainings")
    config = found[0][1].config
    name, size = config.DATA.name, config.DATA.img_size
    train = open_images(name, options.data, img_size=size)
    reference = open_images(name, options.ref, img_size=size)
    device = torch.device("cpu")
    for extractor in EXTRACTORS:
        evaluator = Evaluator(
            reference,
            metrics=METRICS,
            extractor=extractor,
            device=device,
            seed=0,
            extractor_data=train,
        )
        measured_with = evaluator.describe(options.samples)
        for key, checkpoint in found:
            values = kept.setdefault(key, {})
            before = values.get(extractor)
            if before is not None and before["measured_with"] == measured_with:
                continue
            sampler = checkpoint.sampler(use_ema=True)
            metrics, _ = evaluate_generator(
                sampler, checkpoint.config, evaluator, options.samples, device
            )
            suffix = f"_{extractor}"  # both extractors' values under one name
            plain = {name.removesuffix(suffix): value for name, value in metrics.items()}
            values[extractor] = {"measured_with": measured_with, "values": plain}
            write_json(file, kept)
            print(key, extractor, json.dumps(plain), flush=True)
    rows = []
    for key, checkpoint in found:
        run, _ = key.rsplit(", step ", 1)
        values = {extractor: kept[key][extractor]["values"] for extractor in EXTRACTORS}
        rows.append({"run": run, "step": checkpoint.step} | values)
    return rows


def _checkpoints(folders: Sequence[Path]) -> Iterator[tuple[str, Checkpoint]]:
    """Every checkpoint of trained networks once, with a name without the machine's folders."""
    seen = set()
    for folder in folders:
        for path in sorted(folder.rglob("checkpoints/*.pt")):
            checkpoint = load_checkpoint(path)
            run = path.parent.parent
            key = f"{run.parent.name}/{run.name}, step {checkpoint.step}"
            if checkpoint.step and key not in seen:
                seen.add(key)
                yield key, checkpoint


def agreement(rows: Sequence[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """How the extractors' values go together over the checkpoints.

    Args:
        rows: see :func:`_measured`.

    Returns:
        Measure -> ``n``; ``spearman``; ``pearson`` (of logarithms where MEASURES says so), with
        ``interval``, Fisher's 95 % one; and ``differenced``, Pearson's correlation of the changes
        from checkpoint to checkpoint within runs, None with fewer than ``FEWEST`` changes. A
        correlation of constant values is None.
    """
    found = {}
    for measure, as_log in MEASURES.items():
        one, other = (
            np.array([row[extractor][measure] for row in rows], dtype=np.float64)
            for extractor in EXTRACTORS
        )
        if as_log:
            one, other = np.log(one), np.log(other)
        entry: dict[str, Any] = {"n": len(rows), "spearman": None, "pearson": None}
        entry |= {"interval": None, "differenced": None}
        if np.ptp(one) > 0 and np.ptp(other) > 0:
            entry["spearman"] = float(stats.spearmanr(one, other).statistic)
            pearson = stats.pearsonr(one, other)
            entry["pearson"] = float(pearson.statistic)
            if len(rows) >= FEWEST:
                entry["interval"] = [float(end) for end in pearson.confidence_interval(0.95)]
        changes = [(one[b] - one[a], other[b] - other[a]) for a, b in _following(rows)]
        if len(changes) >= FEWEST and all(np.ptp(side) > 0 for side in np.transpose(changes)):
            entry["differenced"] = float(stats.pearsonr(*np.transpose(changes)).statistic)
        found[measure] = entry
    return found


def _following(rows: Sequence[dict[str, Any]]) -> Iterator[tuple[int, int]]:
    """Positions of checkpoints that follow each other in a run."""
    order = sorted(range(len(rows)), key=lambda i: (rows[i]["run"], rows[i]["step"]))
    for a, b in pairwise(order):
        if rows[a]["run"] == rows[b]["run"]:
            yield a, b


def report(result: dict[str, Any]) -> str:
    """README.md for the results."""
    rows = result["checkpoints"]
    lines = [
        "# Do the extractors put trained GANs in the same order?",
        "",
        f"`{result['command']}`",
        "",
        f"{len(rows)} checkpoints of {len({row['run'] for row in rows})} runs, "
        f"{result['samples']:,} images each. Correlations of the values in the two extractors' "
        "features (of the logarithms for the Frechet distance); brackets hold Fisher's 95 % "
        "interval, which is too narrow where checkpoints are of one run. The last column "
        "correlates the changes from checkpoint to checkpoint within runs.",
        "",
        "| measure | Spearman | Pearson [95 %] | of changes |",
        "|---|---|---|---|",
    ]
    for measure, entry in result["agreement"].items():
        pearson = _shown(entry["pearson"])
        if entry["interval"] is not None:
            low, high = entry["interval"]
            pearson += f" [{low:+.2f}, {high:+.2f}]"
        cells = (_shown(entry["spearman"]), pearson, _shown(entry["differenced"]))
        lines.append(f"| {measure.replace('_', ' ')} | {' | '.join(cells)} |")
    names = " | ".join(f"{name}, {measure[0]}" for name in EXTRACTORS for measure in _SHOWN)
    lines += ["", f"| run | step | {names} |", "|---" * (2 + 2 * len(_SHOWN)) + "|"]
    for row in rows:
        shown = tuple(f"{row[name][m]:.4g}" for name in EXTRACTORS for _, m in _SHOWN)
        lines.append(f"| {row['run']} | {row['step']:,} | {' | '.join(shown)} |")
    return "\n".join(lines) + "\n"


_SHOWN = (("Frechet", "frechet_distance"), ("recall", "recall"), ("coverage", "coverage"))


def _shown(value: float | None) -> str:
    return "not defined" if value is None else f"{value:+.2f}"


if __name__ == "__main__":
    sys.exit(main())
