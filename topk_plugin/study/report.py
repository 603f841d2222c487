"""The report of a study: Markdown, CSV, JSON and pictures, from the runs that are finished."""

import csv
import io
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from topk_plugin.base.files import atomic_write, write_json
from topk_plugin.study import figures, power
from topk_plugin.study.looks import LATE
from topk_plugin.study.results import (
    DECIDING,
    MEASURES,
    Results,
    class_distances,
    comparisons,
    kept_file,
    percent,
    values_of,
)
from topk_plugin.study.scheduler import LOG
from topk_plugin.study.sequential import PAIRS, THRESHOLDS
from topk_plugin.study.study import Study

STEP = re.compile(r"step ([\d,]+): (\w+)")


def write_report(results: Results, save: Path, command: str, *, root: Path | None = None) -> None:
    """Write ``save``: README.md, summary.json, summary.csv, runs/ and the pictures.

    Args:
        results: of the study; without a finished run nothing is written.
        save: folder of the report.
        command: what was typed, without folders.
        root: folder of the runs; None: ``save`` keeps their files and sample pictures already.

    Raises:
        UserError: a file can't be written.
    """
    runs = list(results.all())
    if not runs:
        return
    for run in runs if root is not None else []:
        assert root is not None
        kept = kept_file(save, run["gan"], run["arm"], run["seed"])
        write_json(kept, run, indent=None)
        log = root / run["gan"] / f"{run['arm']}-{run['seed']}" / LOG
        if log.exists():  # a run that was restored has none, and its log is kept already
            _write(kept.with_suffix(".log"), _log(log))
    rows = comparisons(results)
    summary = {"study": results.study.name, "images": list(results.images), "rows": rows}
    write_json(save / "summary.json", summary, indent=1)
    _write(save / "summary.csv", _csv(runs))
    pictures = _pictures(results, rows, root, save)
    _write(save / "README.md", _page(results, rows, pictures, command))


def _log(file: Path) -> str:
    """The lines of a run's log that are about its steps; warnings name folders of this machine.

    A run that was killed repeats the steps since its last checkpoint: the later lines count.
    """
    lines = file.read_text(encoding="utf-8", errors="replace").splitlines()
    kept = {match.groups(): line for line in lines if (match := STEP.match(line))}
    return "".join(f"{kept[key]}\n" for key in sorted(kept, key=_step_of))


def _step_of(key: tuple[str | Any, ...]) -> int:
    return int(key[0].replace(",", ""))


def _pictures(
    results: Results, rows: list[dict[str, Any]], root: Path | None, save: Path
) -> dict[str, list[str]]:
    """Draw them; GAN (or "") -> file names."""
    found: dict[str, list[str]] = {}
    primary = _primary(results)
    arms = results.arm_names()
    for measure, file in ((primary, "differences.png"), ("auprc", "differences-auprc.png")):
        if any(row["measure"] == measure and row.get("difference") for row in rows):
            figures.differences(rows, measure, arms, save / file)
            found.setdefault("", []).append(file)
    for gan, of_arms in results.runs.items():
        if not any(of_arms.values()):
            continue
        name = gan.replace(" ", "-")
        found[gan] = []
        if any(len(run["history"]) > 2 for seeds in of_arms.values() for run in seeds.values()):
            figures.curves(results, gan, save / f"curves-{name}.png")
            found[gan].append(f"curves-{name}.png")
        samples = save / f"samples-{name}.png"
        grids = [] if root is None else _grids(root, gan, of_arms)
        if len(grids) > 1:
            figures.samples(grids, samples)
        if samples.exists():
            found[gan].append(samples.name)
    return found


def _grids(root: Path, gan: str, arms: dict[str, dict[int, Any]]) -> list[tuple[str, Path]]:
    """The last sample grid of one seed in each arm."""
    shown = shown_seed(arms)
    grids = []
    for arm in (arm for arm, finished in arms.items() if shown in finished):
        files = grid_files(root, gan, arm, shown)
        if files:
            grids.append((arm, files[-1]))
    return grids


def shown_seed(arms: dict[str, dict[int, Any]]) -> int:
    """The seed that most arms have finished; 0 where none has finished any."""
    seeds = sorted({seed for finished in arms.values() for seed in finished})
    return max(seeds, key=lambda seed: sum(seed in f for f in arms.values()), default=0)


def grid_files(root: Path, gan: str, arm: str, seed: int) -> list[Path]:
    """The sample grids of a run, in the order of steps."""
    return sorted((root / gan / f"{arm}-{seed}" / "samples").glob("step_*.png"))


def _page(
    results: Results,
    rows: list[dict[str, Any]],
    pictures: dict[str, list[str]],
    command: str,
) -> str:
    runs, study = list(results.all()), results.study
    parts = [
        f"# {study.title}",
        "",
        f"`{command}`: {len(runs)} of {results.count_planned()} runs are finished. "
        f"{_when_verdicts_come(study)}",
        *(_pairs_so_far(results, rows) if study.sequential else []),
        "",
        *_protocol(results),
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
            _table(rows, ["auroc", "auprc"], results),
        ]
    primary = _primary(results)
    deciding = [primary, *(m for m in results.deciding() if m in study.co_primary)]
    parts += ["", "## Image quality", "", _table(rows, deciding, results)]
    parts += power.table([row for row in rows if row["measure"] == primary])
    for gan in study.gans:
        if not any(results.runs.get(gan.name, {}).values()):
            continue
        about = f"{gan.about[:1].upper()}{gan.about[1:]}. " if gan.about else ""
        parts += [
            "",
            f"## {gan.name}",
            "",
            f"{about}From `{'/'.join(gan.config.parts[-2:])}`.",
        ]
        if gan.overrides:
            parts += [f"Changed in all arms: {', '.join(f'`{o}`' for o in gan.overrides)}."]
        finished = [arm for arm in gan.arms if results.runs[gan.name].get(arm.name)]
        parts += ["", *(_arm(arm.name, arm.overrides) for arm in finished)]
        parts += ["", *(f"![{name}]({name})\n" for name in pictures.get(gan.name, []))]
        mine = [row for row in rows if row["gan"] == gan.name]
        parts += [_table(mine, results.measures(), results, named=False)]
        parts += _classes(results, gan.name)
    parts += ["", "## Cost", "", _cost(results)]
    return "\n".join(parts) + "\n"


def _arm(name: str, overrides: Sequence[str]) -> str:
    return f"- {name}: {', '.join(f'`{o}`' for o in overrides) or 'the config as it is'}"


def _when_verdicts_come(study: Study) -> str:
    if not study.sequential:
        return (
            "A comparison gets a verdict when all of its runs are: who looks after every run finds "
            "a difference too often. So does who adds seeds because of what a verdict says: decide "
            "on their number first, or run the study with looks at "
            f"{', '.join(map(str, PAIRS))} pairs (`--sequential`)."
        )
    shown = ", ".join(
        f"{pairs} (p under {threshold:g})"
        for pairs, threshold in zip(PAIRS, THRESHOLDS, strict=True)
    )
    return (
        f"A comparison is looked at after so many pairs and no others: {shown}. Together the looks "
        "err in at most 5 % of comparisons without a difference; what is decided stays decided."
    )


def _pairs_so_far(results: Results, rows: Sequence[dict[str, Any]]) -> list[str]:
    """How far a sequential study is, and that nothing is judged before its first look."""
    primary = _primary(results)
    counted = {
        (row["gan"], row["arm"]): row.get("counted", 0) for row in rows if row["measure"] == primary
    }
    parts, early = [], False
    for gan, arms in results.planned.items():
        found = {arm: counted.get((gan, arm), 0) for arm in arms if arm != results.study.baseline}
        if found:
            parts.append(f"{gan}: {', '.join(f'{arm} {pairs}' for arm, pairs in found.items())}")
            early |= min(found.values()) < PAIRS[0]
    lines = [
        "",
        f"Pairs so far, of at least {results.study.fewest} and at most {PAIRS[-1]}: "
        f"{'; '.join(parts)}.",
    ]
    if early:
        lines[-1] += (
            f" **Where there are fewer than {PAIRS[0]}, nothing is judged yet**: the changes and "
            "intervals below describe what is there, and are no result."
        )
    return lines


def _protocol(results: Results) -> list[str]:
    runs = list(results.all())
    run = max(runs, key=lambda each: len(each["history"]))  # one that has not diverged
    with_, where = run["measured_with"], run["environment"]
    extractor = f"the {with_['extractor']} extractor"
    if "held_out_accuracy" in with_:
        extractor += (
            f", a small classifier that this project trained on {with_['trained_on']} and that has "
            f"{with_['held_out_accuracy']:.1%} of held-out images right (weights "
            f"`{with_['weights_sha256'][:12]}`, the same in all runs); its distances compare with "
            "each other only and are no FID, and its precision means little by itself (noise "
            "before the training has a high one)"
        )
    used = {each["measured_with"]["reference"]: each["measured_with"] for each in runs}
    references = ", ".join(f"{name} ({u['reference_size']:,} images)" for name, u in used.items())
    train, test = results.images
    if train:
        files = f"`{train}`" + (f", test images of `{test}`" if test else "")
    else:
        files = "the data set's own files"
    late = sum(look["step"] > LATE * run["history"][-1]["step"] for look in run["history"])
    value = (
        "the end of the run" if late == 1 else f"the mean over the {late} looks in its last quarter"
    )
    deciding = [MEASURES[name] for name in results.deciding()]
    return [
        f"Images: {', '.join(used)} from {files}.",
        "",
        f"Protocol: runs of one GAN and seed share initial weights, data order, latents and "
        f"augmentation. Trained by: {run['engine']}. Measured on {with_['samples']:,} images of "
        f"the generator's moving average (and of its raw weights, on the same latents), all runs "
        f"with the same latents, in the features of {extractor}. The value of a run is {value}. "
        f"Reference: what the GAN is trained on, "
        f"{references}, where nothing else is said; images are compared at their own size. "
        f"Training in {run['precision']}.",
        "",
        "Differences are paired by seed. Quantities above 0 are compared by the logarithm of the "
        "ratio to the baseline, shown as a change in percent; precision, recall, agreement and "
        "correlations by their differences. Brackets hold Student's 95 % intervals over seeds. "
        "A verdict rests on the paired t-test of these effects after Holm's correction for all "
        f"arms that are compared with the same baseline, for each of: {', '.join(deciding)}. "
        "Measures without a verdict describe.",
        "",
        f"python {where['python']}, torch {where['torch']}, {where['system']}, "
        f"{run['threads']} thread a run{_units(runs)}.",
    ]


def _units(runs: Sequence[dict[str, Any]]) -> str:
    """The CPUs' units where runs tell them."""
    found = {" ".join(run["environment"].get("cpu_units", ())) for run in runs} - {""}
    if not found:
        return ""
    text = "; CPU units: " + " | ".join(sorted(found))
    return text + " (more than one kind: pairs across them differ by rounding too)" * (
        len(found) > 1
    )


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


def _table(
    rows: list[dict[str, Any]], measures: Sequence[str], results: Results, *, named: bool = True
) -> str:
    """Rows of the measures; ``named``: with a column for the GAN."""
    head = ["GAN"] * named + ["measure", "arm", "runs", "mean [95 %]"]
    head += ["change against the baseline [95 %]", "paired t, Holm", "verdict"]
    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    deciding = results.deciding()
    for measure in measures:
        for row in rows:
            if row["measure"] != measure:
                continue
            cells = [row["gan"]] * named + [MEASURES[measure], row["arm"]]
            cells += [f"{len(row['values'])} of {row['planned']}"]
            cells.append(with_interval(row["mean"], row["interval"]))
            found = row.get("difference")
            if found is None:
                cells += [""] * 3
            else:
                cells.append(change(row))
                cells.append("" if found.get("holm") is None else f"{found['holm']:.3f}")
                cells.append(_verdict(row) if measure in deciding else "")
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _verdict(row: dict[str, Any]) -> str:
    """What a row's difference is judged to be, or why it is not yet."""
    found = row["difference"]
    if found.get("look"):
        return f"{found['verdict']} after {found['look']} pairs"
    if "counted" in row:
        return f"no look yet: {row['counted']} of {PAIRS[0]} pairs"
    return str(found.get("verdict") or "runs missing")


def change(row: dict[str, Any]) -> str:
    """A row's effect with Student's interval: "-2.2 % [-23.0, +18.6]", or a difference."""
    found = row["difference"]
    if found["mean"] != found["mean"]:
        return "not defined"
    if not row["ratio"]:
        return with_interval(found["mean"], found["interval"], sign="+")
    text = f"{percent(found['mean']):+.1f} %"
    if found["interval"] is None:
        return text
    low, high = (percent(end) for end in found["interval"])
    return f"{text} [{low:+.1f}, {high:+.1f}]"


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
            images = sum(run["images_per_step"] * _last_step(run) for run in runs)
            cores = sum(run["training_seconds"] * run["threads"] for run in runs) / 3600
            lines.append(
                f"| {gan} | {arm} | {len(runs)} | {_last_k(runs)} | {images / seconds:.0f} | "
                f"{seconds / len(runs) / 60:.1f} | {cores:.2f} |"
            )
    return "\n".join(lines) + "\n\nTraining steps only; measuring comes on top."


def _last_step(run: dict[str, Any]) -> int:
    if run["diverged_at_step"] is not None:
        return int(run["diverged_at_step"])
    return int(run["history"][-1]["step"])


def _last_k(runs: Sequence[dict[str, Any]]) -> str:
    """As "48 of 64"; StudioGAN's own runs do not say."""
    batch = runs[0]["config"]["OPTIMIZATION"]["batch_size"]
    found = sorted({run["k_at_the_end"] for run in runs if run.get("k_at_the_end") is not None})
    return f"{', '.join(map(str, found))} of {batch}" if found else ""


def _csv(runs: Sequence[dict[str, Any]]) -> str:
    names = list(dict.fromkeys(name for run in runs for name in values_of(run)))
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["gan", "arm", "seed", *names])
    for run in runs:
        values = values_of(run)
        writer.writerow([run["gan"], run["arm"], run["seed"], *(values.get(n, "") for n in names)])
    return text.getvalue()


def _primary(results: Results) -> str:
    """The distance that verdicts are about."""
    return next(name for name in results.measures() if name in DECIDING)


def with_interval(mean: float, found: list[float] | None, *, sign: str = "") -> str:
    """A mean and its interval as text."""
    digits = _digits(mean)
    text = f"{mean:{sign}.{digits}f}"
    if found is None:
        return text
    low, high = (f"{value:{sign or '-'}.{digits}f}" for value in found)
    return f"{text} [{low}, {high}]"


def _digits(mean: float) -> int:
    return 4 if abs(mean) < 0.1 else 3 if abs(mean) < 10 else 1


def _write(path: Path, text: str) -> None:
    with atomic_write(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
