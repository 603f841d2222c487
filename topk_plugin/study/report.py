"""The report of a preset: Markdown, CSV, JSON and pictures, from the runs that are finished."""

import csv
import io
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.paper.presets import Preset
from topk_plugin.base.files import atomic_write
from topk_plugin.study import figures, power
from topk_plugin.study.results import (
    DECIDING,
    MEASURES,
    Results,
    class_distances,
    comparisons,
    final,
)
from topk_plugin.study.scheduler import LOG
from topk_plugin.study.spec import RunSpec

PRIMARY = ("frechet_distance", "fid")
STEP = re.compile(r"step ([\d,]+): (\w+)")


def write_report(
    preset: Preset, specs: Sequence[RunSpec], root: Path, save: Path, command: str
) -> None:
    """Write ``save``: README.md, summary.json, summary.csv, runs/ and the pictures.

    Args:
        preset: which.
        specs: its runs, finished or not.
        root: folder of the runs.
        save: folder of the report.
        command: what was typed, without folders.

    Raises:
        UserError: a file can't be written, or a folder holds a run of other settings.
    """
    results = Results.read(preset, specs, root)
    runs = list(results.all())
    if not runs:
        return
    for run in runs:
        name = f"{run['arm']}-{run['seed']}"
        kept = save / "runs" / _file_name(run["gan"]) / name
        _write(kept.with_suffix(".json"), json.dumps(run, separators=(",", ":")) + "\n")
        _write(kept.with_suffix(".log"), _log(root / run["gan"] / name / LOG))
    rows = comparisons(results)
    _write(
        save / "summary.json", json.dumps({"preset": preset.name, "rows": rows}, indent=1) + "\n"
    )
    _write(save / "summary.csv", _csv(runs))
    pictures = _pictures(results, rows, root, save)
    _write(save / "README.md", _page(preset, results, rows, pictures, command))


def _log(file: Path) -> str:
    """The lines of a run's log that are about its steps; warnings name folders of this machine.

    A run that was killed repeats the steps since its last checkpoint: the later lines count.
    """
    if not file.exists():
        return ""
    lines = file.read_text(encoding="utf-8", errors="replace").splitlines()
    kept = {match.groups(): line for line in lines if (match := STEP.match(line))}
    return "".join(f"{kept[key]}\n" for key in sorted(kept, key=_step_of))


def _step_of(key: tuple[str | Any, ...]) -> int:
    return int(key[0].replace(",", ""))


def _pictures(
    results: Results, rows: list[dict[str, Any]], root: Path, save: Path
) -> dict[str, list[str]]:
    """Draw them; GAN (or "") -> file names."""
    found: dict[str, list[str]] = {}
    primary = _primary(results)
    for measure, file in ((primary, "differences.png"), ("auprc", "differences-auprc.png")):
        if any(row["measure"] == measure and row.get("difference") for row in rows):
            figures.differences(rows, measure, save / file)
            found.setdefault("", []).append(file)
    for gan, arms in results.runs.items():
        if not any(arms.values()):
            continue
        name = _file_name(gan)
        found[gan] = []
        if results.preset.looks > 1:
            figures.curves(results, gan, save / f"curves-{name}.png")
            found[gan].append(f"curves-{name}.png")
        grids = _grids(root, gan, arms)
        if len(grids) > 1:
            figures.samples(grids, save / f"samples-{name}.png")
            found[gan].append(f"samples-{name}.png")
    return found


def _grids(root: Path, gan: str, arms: dict[str, dict[int, Any]]) -> list[tuple[str, Path]]:
    """The last sample grid of seed 0 in each arm that has finished it."""
    grids = []
    for arm in (arm for arm, seeds in arms.items() if 0 in seeds):
        files = sorted((root / gan / f"{arm}-0" / "samples").glob("step_*.png"))
        if files:
            grids.append((arm, files[-1]))
    return grids


def _page(
    preset: Preset,
    results: Results,
    rows: list[dict[str, Any]],
    pictures: dict[str, list[str]],
    command: str,
) -> str:
    runs = list(results.all())
    parts = [
        f"# {preset.title}",
        "",
        f"`{command}`: {len(runs)} of {results.count_planned()} runs are finished. A comparison "
        "gets a verdict when all of its runs are.",
        "",
        *_protocol(preset, results),
        *_diverged(runs),
        "",
        *(f"![Differences]({name})\n" for name in pictures.get("", [])),
    ]
    shares = [run["anomaly"]["share"] for run in runs if "anomaly" in run]
    if shares:
        parts += [
            "## Anomaly detection",
            "",
            "A low score of the critic marks test images of the class that the training never saw. "
            f"Guessing has an AUROC of 0.5 and an AUPRC of {max(shares):.2f}.",
            "",
            _table(rows, ["auroc", "auprc"]),
        ]
    primary = _primary(results)
    parts += ["", "## Image quality", "", _table(rows, [primary])]
    parts += power.table([row for row in rows if row["measure"] == primary])
    for gan in preset.gans:
        if not any(results.runs.get(gan.name, {}).values()):
            continue
        parts += [
            "",
            f"## {gan.name}",
            "",
            f"{gan.about[:1].upper()}{gan.about[1:]}. From `configs/{gan.config}`.",
        ]
        if gan.overrides:
            parts += [f"Changed: {', '.join(f'`{o}`' for o in gan.overrides)}."]
        parts += ["", *(f"![{name}]({name})\n" for name in pictures.get(gan.name, []))]
        mine = [row for row in rows if row["gan"] == gan.name]
        parts += [_table(mine, results.measures(), named=False)]
        parts += _classes(results, gan.name)
    parts += ["", "## Cost", "", _cost(results)]
    return "\n".join(parts) + "\n"


def _protocol(preset: Preset, results: Results) -> list[str]:
    run = next(iter(results.all()))
    with_, where = run["measured_with"], run["environment"]
    extractor = f"the {with_['extractor']} extractor"
    if "held_out_accuracy" in with_:
        extractor += (
            f", a small classifier that this project trained on {with_['trained_on']} and that has "
            f"{with_['held_out_accuracy']:.1%} of held-out images right (weights "
            f"`{with_['weights_sha256'][:12]}`); its distances compare with each other only and "
            "are no FID, and its precision means little by itself (noise before the training has "
            "a high one)"
        )
    used = {run["measured_with"]["reference"]: run["measured_with"] for run in results.all()}
    references = ", ".join(f"{name} ({u['reference_size']:,} images)" for name, u in used.items())
    train, test = results.images
    if train:
        files = f"`{train}`" + (f", test images of `{test}`" if test else "")
    else:
        files = "the data set's own files"
    return [
        f"Images: {', '.join(used)} from {files}.",
        "",
        f"Protocol: runs of one GAN and seed share initial weights, data order, latents and "
        f"augmentation. Trained by: {run['engine']}. Measured at the end of the run on "
        f"{with_['samples']:,} images of the "
        f"generator's moving average (and of its raw weights, on the same latents), all runs with "
        f"the same latents, in the features of {extractor}. Reference: what the GAN is trained on, "
        f"{references}, where nothing else is said; images are compared at their own size. "
        f"Training in {preset.precision}.",
        "",
        "Brackets hold Student's 95 % intervals of the mean over seeds. Differences are paired by "
        "seed. A verdict needs a paired t-test under 0.05 after Holm's correction for all arms "
        "that are compared with the same baseline. Measures without a verdict describe.",
        "",
        f"python {where['python']}, torch {where['torch']}, {where['system']}, "
        f"{run['threads']} thread a run.",
    ]


def _diverged(runs: Sequence[dict[str, Any]]) -> list[str]:
    """A line about runs whose networks stopped being finite: they have no values at their end."""
    broken = [
        f"{run['gan']}, {run['arm']}, seed {run['seed']} (step {run['diverged_at_step']:,})"
        for run in runs
        if run["diverged_at_step"] is not None
    ]
    if not broken:
        return []
    return [
        "",
        f"**Diverged**, so that they have no values at their end and their pairs are left out, "
        f"which flatters an arm that diverges: {'; '.join(broken)}.",
    ]


def _table(rows: list[dict[str, Any]], measures: Sequence[str], *, named: bool = True) -> str:
    """Rows of the measures; ``named``: with a column for the GAN."""
    head = ["GAN"] * named + ["measure", "arm", "runs", "mean [95 %]"]
    head += ["difference to the baseline [95 %]", "%"]
    head += ["paired t, Holm", "verdict"]
    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    for measure in measures:
        for row in rows:
            if row["measure"] != measure:
                continue
            cells = [row["gan"]] * named + [MEASURES[measure], row["arm"]]
            cells += [f"{len(row['values'])} of {row['planned']}"]
            cells.append(_with_interval(row["mean"], row["interval"]))
            found = row.get("difference")
            if found is None:
                cells += [""] * 4
            else:
                cells.append(_with_interval(found["mean"], found["interval"], sign="+"))
                share = found["mean"] / row["baseline"] if row["baseline"] else float("nan")
                # percents of a quantity that may be 0 or negative say nothing
                cells.append("" if measure == "rank_correlation" else f"{100 * share:+.1f}")
                cells.append("" if found.get("holm") is None else f"{found['holm']:.3f}")
                waiting = "runs missing" if measure in DECIDING else ""
                cells.append(found.get("verdict") or waiting)
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _classes(results: Results, gan: str) -> list[str]:
    """Frechet distance within each class, means over seeds."""
    arms = {arm: class_distances(results, gan, arm) for arm in results.runs[gan]}
    arms = {arm: found for arm, found in arms.items() if found}
    if not arms:
        return []
    names = list(next(iter(arms.values())))
    lines = [
        "",
        "Frechet distance within each class, mean over seeds:",
        "",
        f"| class | {' | '.join(arms)} |",
        "|---" * (1 + len(arms)) + "|",
    ]
    for name in names:
        cells = [f"{sum(found[name]) / len(found[name]):.1f}" for found in arms.values()]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return lines


def _cost(results: Results) -> str:
    lines = [
        "| GAN | arm | runs | k at the end | images a second | minutes a run | core-hours |",
        "|---|---|---|---|---|---|---|",
    ]
    for gan, arms in results.runs.items():
        for arm, seeds in arms.items():
            if not seeds:
                continue
            runs = list(seeds.values())
            seconds = sum(run["training_seconds"] for run in runs)
            images = sum(run["images_per_step"] * run["history"][-1]["step"] for run in runs)
            cores = sum(run["training_seconds"] * run["threads"] for run in runs) / 3600
            lines.append(
                f"| {gan} | {arm} | {len(runs)} | {_last_k(runs)} | {images / seconds:.0f} | "
                f"{seconds / len(runs) / 60:.1f} | {cores:.2f} |"
            )
    return "\n".join(lines) + "\n\nTraining steps only; measuring comes on top."


def _last_k(runs: Sequence[dict[str, Any]]) -> str:
    """As "48 of 64"; StudioGAN's own runs do not say."""
    batch = runs[0]["config"]["OPTIMIZATION"]["batch_size"]
    found = sorted({run["k_at_the_end"] for run in runs if run.get("k_at_the_end") is not None})
    return f"{', '.join(map(str, found))} of {batch}" if found else ""


def _csv(runs: Sequence[dict[str, Any]]) -> str:
    names = list(dict.fromkeys(name for run in runs for name in final(run)))
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["gan", "arm", "seed", *names])
    for run in runs:
        values = final(run)
        writer.writerow([run["gan"], run["arm"], run["seed"], *(values.get(n, "") for n in names)])
    return text.getvalue()


def _primary(results: Results) -> str:
    return next(name for name in PRIMARY if name in results.measures())


def _with_interval(mean: float, found: list[float] | None, *, sign: str = "") -> str:
    text = f"{mean:{sign}.{_digits(mean)}f}"
    return text if found is None else f"{text} {_interval(mean, found, sign=sign or '-')}"


def _interval(mean: float, found: list[float] | None, *, sign: str = "+") -> str:
    """``found`` with as many digits as its mean has."""
    if found is None:
        return ""
    low, high = (f"{value:{sign}.{_digits(mean)}f}" for value in found)
    return f"[{low}, {high}]"


def _digits(mean: float) -> int:
    return 4 if abs(mean) < 0.1 else 3 if abs(mean) < 10 else 1


def _file_name(gan: str) -> str:
    return gan.replace(" ", "-")


def _write(path: Path, text: str) -> None:
    with atomic_write(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
