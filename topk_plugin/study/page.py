"""The report of a study as one page: paired differences with intervals, curves, samples."""

import math
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

from topk_plugin.report.page import Section, data_uri, paragraph, table, write_page
from topk_plugin.report.run import Picture, Series
from topk_plugin.report.run_sections import SAMPLES_BUDGET, curve
from topk_plugin.report.thinning import fitting
from topk_plugin.study.figures import CURVES
from topk_plugin.study.report import change, grid_files, shown_seed, with_interval
from topk_plugin.study.results import MEASURES, Results, comparisons, percent

FILE = "report.html"
WIDTH, ROW, LEFT = 720, 30, 230  # of the picture of differences, in its own units


def write_study_page(results: Results, save: Path, command: str, *, root: Path) -> None:
    """Write ``save/report.html``; without a finished run nothing is written.

    Args:
        results: of the study.
        save: folder of the report.
        command: what was typed, without folders.
        root: folder of the runs, for the sample pictures.

    Raises:
        UserError: the file can't be written.
    """
    runs = list(results.all())
    if not runs:
        return
    rows = comparisons(results)
    intro = paragraph(f"{len(runs)} of {results.count_planned()} runs are finished.")
    intro += f"<p><code>{escape(command)}</code></p>"
    deciding = results.deciding()
    sections = [
        Section("differences", "Paired differences", _differences(rows, deciding)),
        Section("arms", "Arms", _arms(results)),
        *(_samples(results, gan, root) for gan in results.runs),
        *(
            Section(f"curves-{i}", f"{gan} along the training", charts=_curves(results, gan))
            for i, gan in enumerate(results.runs)
        ),
        Section("all", "All measures", _table(rows, results.measures(), deciding)),
    ]
    write_page(save / FILE, results.study.title, intro, sections)


# --- differences ----------------------------------------------------------------------------


def _differences(rows: list[dict[str, Any]], deciding: list[str]) -> str:
    parts = [
        paragraph(
            "Differences to the baseline of the same seed. The line is Student's 95 % interval, "
            "the dot the mean, a tick a pair. A verdict rests on the paired t-test after Holm's "
            "correction, and comes when all planned runs are over.",
            faint=True,
        )
    ]
    for measure in deciding:
        of = [r for r in rows if r["measure"] == measure and _is_drawable(r)]
        if of:
            parts += [f"<h3>{escape(MEASURES[measure])}</h3>", picture(of)]
    parts.append(_table(rows, deciding, deciding))
    return "".join(parts)


def _is_drawable(row: dict[str, Any]) -> bool:
    found = row.get("difference")
    return found is not None and math.isfinite(found["mean"])


def picture(rows: list[dict[str, Any]]) -> str:
    """Rows of one measure as an SVG: in percent where effects are log ratios."""
    as_shown = percent if rows[0]["ratio"] else float
    ends = [0.0]
    for row in rows:
        bounds = row["difference"]["interval"] or [row["difference"]["mean"]]
        ends += [as_shown(v) for v in (*bounds, *row["by_seed"]) if math.isfinite(v)]
    low, high = min(ends), max(ends)
    margin = 0.05 * (high - low) or 1.0
    low, high = low - margin, high + margin

    def x(value: float) -> float:
        return round(LEFT + (WIDTH - LEFT - 10) * (value - low) / (high - low), 1)

    height = ROW * len(rows) + 34
    bottom = height - 24
    parts = [
        f'<svg class="differences" viewBox="0 0 {WIDTH} {height}" role="img">',
        f'<line class="axis" x1="{LEFT}" x2="{WIDTH - 10}" y1="{bottom}" y2="{bottom}"/>',
        f'<line class="zero" x1="{x(0)}" x2="{x(0)}" y1="0" y2="{bottom}"/>',
    ]
    unit = " %" if rows[0]["ratio"] else ""
    for value in (low + margin, 0.0, high - margin):
        parts.append(
            f'<text x="{x(value)}" y="{height - 8}" text-anchor="middle">{value:+.3g}{unit}</text>'
        )
    for place, row in enumerate(rows):
        y, found = ROW * (place + 0.5), row["difference"]
        name = escape(f"{row['gan']}, {row['arm']} ({row['pairs']})")
        parts.append(f'<text x="{LEFT - 10}" y="{y + 4}" text-anchor="end">{name}</text>')
        bounds = found["interval"]
        if bounds is not None:
            a, b = (x(as_shown(end)) for end in bounds)
            parts.append(f'<line class="interval" x1="{a}" x2="{b}" y1="{y}" y2="{y}"/>')
        for value in row["by_seed"]:
            if math.isfinite(value):
                at = x(as_shown(value))
                parts.append(f'<line class="pair" x1="{at}" x2="{at}" y1="{y - 7}" y2="{y + 7}"/>')
        parts.append(f'<circle class="mean" cx="{x(as_shown(found["mean"]))}" cy="{y}" r="5"/>')
    return "".join([*parts, "</svg>"])


def _table(rows: list[dict[str, Any]], measures: list[str], deciding: list[str]) -> str:
    head = ["measure", "GAN", "arm", "runs", "mean [95 %]", "change [95 %]", "Holm", "verdict"]
    lines = []
    for measure in measures:
        for row in (row for row in rows if row["measure"] == measure):
            found = row.get("difference")
            cells = [MEASURES[measure], row["gan"], row["arm"]]
            cells += [f"{len(row['values'])} of {row['planned']}"]
            cells.append(with_interval(row["mean"], row["interval"]))
            if found is None:
                cells += ["", "", ""]
            else:
                verdict = found.get("verdict") or ("runs missing" if measure in deciding else "")
                holm = "" if found.get("holm") is None else f"{found['holm']:.3f}"
                cells += [change(row), holm, verdict]
            lines.append(cells)
    return table(head, lines)


# --- what was compared ----------------------------------------------------------------------


def _arms(results: Results) -> str:
    rows = []
    for gan in results.study.gans:
        for place, arm in enumerate(gan.arms):
            says = ", ".join(arm.overrides) or "the config as it is"
            rows.append([gan.name, arm.name + (" (baseline)" if place == 0 else ""), says])
    return table(["GAN", "arm", "overrides"], rows)


def _curves(results: Results, gan: str) -> list[dict[str, Any]]:
    """Every measure along the training: a faint line a seed, a strong one their mean."""
    order = results.arm_names()
    arms = {arm: list(runs.values()) for arm, runs in results.runs[gan].items() if runs}
    measured = {
        name for runs in arms.values() for run in runs for e in run["history"] for name in e
    }
    charts = []
    for name in (name for name in CURVES if name in measured):
        series = []
        for arm, runs in arms.items():
            lines = [_line(run["history"], name) for run in runs]
            colour = order.index(arm)
            series += [curve(arm, colour, line, thin=True) for line in lines]
            # one that has diverged is shorter
            longest = max(lines, key=lambda line: len(line.steps))
            whole = [line.values for line in lines if len(line.steps) == len(longest.steps)]
            series.append(curve(arm, colour, Series(longest.steps, np.mean(whole, axis=0))))
        charts.append({"title": MEASURES[name], "smooth": False, "series": series})
    return charts


def _line(history: list[dict[str, Any]], name: str) -> Series:
    steps = np.array([entry["step"] for entry in history], float)
    return Series(steps, np.array([entry.get(name, math.nan) for entry in history], float))


def _samples(results: Results, gan: str, root: Path) -> Section:
    """One seed's sample grids in each arm."""
    arms, order = results.runs[gan], results.arm_names()
    key = f"samples-{list(results.runs).index(gan)}"
    section = Section(key, f"Samples of {gan}")
    seed = shown_seed(arms)
    columns = []
    for arm in (arm for arm, finished in arms.items() if seed in finished):
        files = grid_files(root, gan, arm, seed)
        pictures = [Picture(int(file.stem.removeprefix("step_")), file) for file in files]
        frames = [
            {"step": step, "src": data_uri(encoded)}
            for step, encoded in fitting(pictures, SAMPLES_BUDGET)
        ]
        if frames:
            columns.append({"name": arm, "run": order.index(arm), "frames": frames})
    if columns:
        about = f"Seed {seed}: the same latents in every arm."
        given = {"title": "samples", "heading": False, "about": about, "columns": columns}
        section.sliders.append(given)
    return section
