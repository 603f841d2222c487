"""Runs -> the sections of their page."""

import math
from collections.abc import Callable, Sequence
from datetime import timedelta
from html import escape
from typing import Any

import numpy as np

from topk_plugin.engine.run_folder import TRAINED_BY
from topk_plugin.report.comparison import (
    ABSENT,
    metric_rows,
    metric_title,
    not_comparable,
    settings_rows,
)
from topk_plugin.report.heatmaps import keep_rates, score_histograms
from topk_plugin.report.page import (
    Section,
    data_uri,
    folded,
    numbers,
    paragraph,
    steps_of,
    table,
)
from topk_plugin.report.run import (
    KEEP_RATE,
    KEPT_VS_DROPPED,
    METRIC,
    SAMPLES,
    Run,
    Series,
)
from topk_plugin.report.thinning import fitting, thinned

# Bytes of a run's pictures before base64, which adds a third: with curves under 3 MB a run.
SAMPLES_BUDGET, KEPT_BUDGET, OTHERS_BUDGET = 1_200_000, 350_000, 250_000

# Of a run that stands alone: what a reader asks first.
FIRST_ASKED = (
    *("DATA.name", "DATA.img_size", "DATA.num_classes", "MODEL.backbone", "MODEL.g_cond_mtd"),
    *("MODEL.d_cond_mtd", "LOSS.adv_loss", "LOSS.apply_topk", "LOSS.topk_gamma", "LOSS.topk_nu"),
    *("LOSS.topk_mode", "LOSS.topk_policy", "OPTIMIZATION.batch_size", "OPTIMIZATION.g_lr"),
    *("OPTIMIZATION.d_lr", "OPTIMIZATION.d_updates_per_step", "OPTIMIZATION.total_steps"),
)
SPEED = "speed/images_per_second"
TITLES = {
    "topk/k": "k: samples of a batch that are kept",
    "topk/fraction_kept": "kept fraction of a batch",
    "topk/threshold": "score of the last kept sample",
    "topk/score_kept_mean": "mean score of the kept samples",
    "topk/score_dropped_mean": "mean score of the dropped samples",
    "topk/nonfinite": "scores that were not finite, so far",
    "loss/generator": "generator's loss",
    "loss/discriminator": "critic's loss",
    "loss/conditional": "conditional loss",
    SPEED: "images per second",
    "diagnostics/auc_real_vs_fake": "AUC of the critic: real against generated",
    "diagnostics/score_spread_fake": "spread of scores: generated",
    "diagnostics/score_spread_real": "spread of scores: real",
    "diagnostics/gradient_cosine": "gated and full gradient: cosine",
    "diagnostics/gradient_norm_ratio": "gated and full gradient: ratio of norms",
    "diagnostics/rank_correlation": "rank correlation of score and distance to real",
    "diagnostics/seconds": "seconds that the diagnostics took",
}
SMOOTHED = ("loss/", "topk/score_", "topk/threshold", SPEED)
"""Tags that begin like these are noisy from entry to entry."""


def sections_of(runs: Sequence[Run]) -> list[Section]:
    """The sections of a page about ``runs``, in the order of reading."""
    return [
        Section("metrics", "Metrics", _metrics(runs), _charts(runs, _begins(METRIC))),
        Section("warnings", "Warnings and notes", _notices(runs)),
        Section("settings", "Settings", _settings(runs)),
        _sample_grids(runs),
        Section("losses", "Losses", charts=_charts(runs, _begins("loss/"))),
        Section("k", "What top-k keeps", charts=_charts(runs, _of_the_gate)),
        Section(
            "scores",
            "Scores of the generated batch",
            _about_scores(runs),
            heatmaps=[
                each for place, run in enumerate(runs) for each in score_histograms(run, place)
            ],
        ),
        _kept_and_dropped(runs),
        _classes(runs),
        Section(
            "diagnostics", "Is the critic a judge?", charts=_charts(runs, _begins("diagnostics/"))
        ),
        Section("speed", "Hardware and speed", _hardware(runs), _charts(runs, _begins("speed/"))),
        Section("others", "Everything else that was logged", charts=_charts(runs, _is_other)),
        _other_pictures(runs),
    ]


def intro_of(runs: Sequence[Run]) -> str:
    """The list of runs under the title."""
    items = []
    for place, run in enumerate(runs):
        of = f" of {run.total_steps:,}" if run.total_steps else ""
        items.append(
            f'<li class="run-{place % 8}"><span class="swatch"></span><b>{escape(run.name)}</b>: '
            f"{escape(run.state)}, step {run.last_step:,}{of}; {escape(run.trained_by)}</li>"
        )
    return f'<ul class="runs">{"".join(items)}</ul>'


# --- curves ---------------------------------------------------------------------------------


def _begins(*prefixes: str) -> Callable[[str], bool]:
    return lambda tag: tag.startswith(prefixes)


def _never_moved(tag: str, runs: Sequence[Run]) -> bool:
    """A count of what went wrong says nothing while it is 0."""
    of = [run.scalars[tag].values for run in runs if tag in run.scalars]
    return tag == "topk/nonfinite" and not any(values.any() for values in of)


def _of_the_gate(tag: str) -> bool:
    return tag.startswith("topk/") and not tag.startswith(KEEP_RATE)


def _is_other(tag: str) -> bool:
    return not tag.startswith((METRIC, "loss/", "topk/", "diagnostics/", "speed/"))


def _charts(runs: Sequence[Run], wanted: Callable[[str], bool]) -> list[dict[str, Any]]:
    """A chart a tag, with a line a run."""
    tags = [tag for run in runs for tag in run.scalars if wanted(tag)]
    order = list(TITLES)
    known = sorted(dict.fromkeys(tags), key=lambda t: order.index(t) if t in order else len(order))
    charts = []
    for tag in known:
        series = [
            curve(run.name, place, run.scalars[tag])
            for place, run in enumerate(runs)
            if tag in run.scalars and np.isfinite(run.scalars[tag].values).any()
        ]
        if series and not _never_moved(tag, runs):
            title = metric_title(tag) if tag.startswith(METRIC) else TITLES.get(tag, tag)
            charts.append({"title": title, "smooth": tag.startswith(SMOOTHED), "series": series})
    return charts


def curve(name: str, colour: int, series: Series, *, thin: bool = False) -> dict[str, Any]:
    """A line for page.js; ``thin``: one of several behind their mean."""
    few = thinned(series)
    line = {"name": name, "run": colour, "x": steps_of(few.steps), "y": numbers(few.values)}
    return line | ({"thin": True} if thin else {})


# --- tables ---------------------------------------------------------------------------------


def _settings(runs: Sequence[Run]) -> str:
    different, alike = settings_rows(runs)
    names = [run.name for run in runs]
    silent = [run.name for run in runs if not run.settings]
    parts = []
    if len(runs) == 1:
        first = [row for key in FIRST_ASKED for row in alike if row[0] == key]
        first = first or alike[:12]
        if first:
            parts.append(_value_table(first, ["value"]))
    elif different:
        parts.append(paragraph("These differ:"))
        parts.append(_value_table(different, names))
    elif len(runs) - len(silent) > 1:
        parts.append(paragraph("All settings are the same; seeds are in the table of hardware."))
    if silent:
        parts.append(paragraph(f"No settings were left in the folder of {', '.join(silent)}."))
    if alike:
        values = [(name, [next((c for c in cells if c), ABSENT)]) for name, cells in alike]
        summary = "All settings" if len(runs) == 1 else f"{len(alike)} settings that are the same"
        parts.append(folded(summary, _value_table(values, ["value"])))
    return "".join(parts)


def _value_table(rows: Sequence[tuple[str, list[str]]], names: Sequence[str]) -> str:
    return table(["setting", *names], [[name, *cells] for name, cells in rows])


def _metrics(runs: Sequence[Run]) -> str:
    rows = []
    for run in runs:
        for title, value, step, best, at in metric_rows(run):
            best_cell = "" if best is None else f"{best:.4g} at step {at:,}"
            rows.append([title, run.name, f"{value:.4g}", f"{step:,}", best_cell])
    if not rows:
        return paragraph("No metrics were logged.")
    rows.sort(key=lambda row: row[0])
    parts = [table(["metric", "run", "last value", "at step", "best"], rows)]
    parts += [f'<p class="notice">{escape(text)}</p>' for text in not_comparable(runs)]
    facts: dict[str, list[str]] = {}
    for run in runs:
        if run.measured_with:
            facts.setdefault(_measured_with(run), []).append(run.name)
    for text, names in facts.items():
        who = "" if len(runs) == 1 else f" ({', '.join(names)})"
        parts.append(paragraph(f"Measured with{who}: {text}.", faint=True))
    if len(runs) > 1:
        parts.append(
            '<p class="faint">Two runs of the same settings differ by more than most methods gain: '
            "<code>topk-plugin study</code> trains pairs and tests the difference.</p>"
        )
    return "".join(parts)


def _measured_with(run: Run) -> str:
    found = run.measured_with
    extractor = f"the {found.get('extractor', '?')} extractor"
    accuracy = found.get("held_out_accuracy")
    if isinstance(accuracy, float):
        extractor += f" (a small classifier, {accuracy:.1%} of held-out images right; no FID)"
    parts = [extractor]
    if found.get("samples"):
        parts.append(f"{found['samples']:,} generated images")
    if found.get("reference"):
        parts.append(f"reference {found['reference']} ({found.get('reference_size', '?')} images)")
    weights = found.get("weights_sha256")
    if weights:
        parts.append(f"weights {str(weights)[:12]}")
    return ", ".join(parts)


def _notices(runs: Sequence[Run]) -> str:
    parts = []
    for run in runs:
        for notice in run.notices:
            when = "before the first step" if notice.step is None else f"step {notice.step:,}"
            who = escape(run.name) if len(runs) > 1 else ""
            head = ", ".join(filter(None, [who, when]))
            parts.append(f'<p class="notice"><b>{head}:</b> {escape(notice.text)}</p>')
    return "".join(parts)


def _hardware(runs: Sequence[Run]) -> str:
    told = [run for run in runs if run.environment or SPEED in run.scalars or run.result]
    rows: list[list[str]] = []
    for title, read in HARDWARE:
        cells = [read(run) for run in told]
        if any(cells):
            rows.append([title, *cells])
    return table(["", *(run.name for run in told)], rows) if rows else ""


def _fact(name: str) -> Callable[[Run], str]:
    def read(run: Run) -> str:
        value = run.environment.get(name)
        return "" if value is None else ", ".join(value) if isinstance(value, list) else str(value)

    return read


def _speed(run: Run) -> str:
    series = run.scalars.get(SPEED)
    if series is None or not np.isfinite(series.values).any():
        return ""
    return f"{float(np.nanmedian(series.values)):,.0f}"


def _time(run: Run) -> str:
    seconds = run.result.get("training_seconds")
    return "" if not isinstance(seconds, int | float) else str(timedelta(seconds=round(seconds)))


def _seed(run: Run) -> str:
    options = run.environment.get("options")
    seed = options.get("seed") if isinstance(options, dict) else run.result.get("seed")
    return "" if seed is None else str(seed)


HARDWARE: tuple[tuple[str, Callable[[Run], str]], ...] = (
    ("images per second, median", _speed),
    ("training time", _time),
    ("seed", _seed),
    ("precision", lambda run: str(run.result.get("precision") or "")),
    ("device", _fact("device")),
    ("GPU", _fact("gpu")),
    ("processor", _fact("cpu")),
    ("its units", _fact("cpu_units")),
    ("threads", _fact("cpu_threads")),
    ("torch", _fact("torch")),
    ("CUDA", _fact("cuda")),
    ("python", _fact("python")),
    ("topk-plugin", _fact("topk_plugin")),
    ("started", _fact("started")),
    ("command", _fact("command")),
)


# --- pictures -------------------------------------------------------------------------------


def _sample_grids(runs: Sequence[Run]) -> Section:
    about = "The same latents at every step."
    if len(runs) > 1 and _same_latents(runs):
        about = "The same latents at every step and in every run."
    slider = _slider(runs, SAMPLES, "samples", about, SAMPLES_BUDGET, heading=False)
    logged = [
        _slider(runs, tag, tag, "As the training logged them.", SAMPLES_BUDGET // len(tags))
        for tags in [_tags(runs, lambda tag: tag.startswith("samples/"))]
        for tag in tags
    ]
    return Section("samples", "Samples", sliders=[s for s in [slider, *logged] if s])


def _same_latents(runs: Sequence[Run]) -> bool:
    """The built-in trainer's grids share latents wherever latents have the same shape and kind."""
    keys = ("MODEL.z_dim", "MODEL.z_prior", "DATA.num_classes")
    kinds = {tuple(run.settings.get(key) for key in keys) for run in runs}
    return len(kinds) == 1 and all(run.trained_by == TRAINED_BY for run in runs)


def _kept_and_dropped(runs: Sequence[Run]) -> Section:
    about = (
        "Left: the best of the samples that were kept, best first. Right: the worst of those that "
        "were dropped, worst first."
    )
    slider = _slider(
        runs, KEPT_VS_DROPPED, "kept and dropped samples", about, KEPT_BUDGET, heading=False
    )
    return Section("kept", "Kept against dropped", sliders=[slider] if slider else [])


def _other_pictures(runs: Sequence[Run]) -> Section:
    def wanted(tag: str) -> bool:
        return tag not in (SAMPLES, KEPT_VS_DROPPED) and not tag.startswith("samples/")

    tags = _tags(runs, wanted)
    sliders = [_slider(runs, tag, tag, "", OTHERS_BUDGET // len(tags)) for tag in tags]
    return Section("pictures", "Other pictures", sliders=[slider for slider in sliders if slider])


def _tags(runs: Sequence[Run], wanted: Callable[[str], bool]) -> list[str]:
    return list(dict.fromkeys(tag for run in runs for tag in run.pictures if wanted(tag)))


def _slider(
    runs: Sequence[Run], tag: str, title: str, about: str, budget: int, *, heading: bool = True
) -> dict[str, Any] | None:
    columns, left_out = [], []
    for place, run in enumerate(runs):
        pictures = run.pictures.get(tag, [])
        chosen = fitting(pictures, budget)
        if len(chosen) < len(pictures):
            left_out.append(f"{run.name} {len(chosen)} of {len(pictures)}")
        frames = [{"step": step, "src": data_uri(encoded)} for step, encoded in chosen]
        if frames:
            columns.append({"name": run.name, "run": place, "frames": frames})
    if not columns:
        return None
    if left_out:
        about += f" To keep the page small it holds some of the pictures: {', '.join(left_out)}."
    return {"title": title, "heading": heading, "about": about.strip(), "columns": columns}


# --- classes and scores ---------------------------------------------------------------------


def _about_scores(runs: Sequence[Run]) -> str:
    if not any(run.histograms for run in runs):
        return ""
    return paragraph(
        "How the critic's scores of the last generated batch are spread, along the run: the "
        "stronger the colour, the more. The line is the score of the last sample that was kept.",
        faint=True,
    )


def _classes(runs: Sequence[Run]) -> Section:
    heatmaps, tables = [], []
    for place, run in enumerate(runs):
        found = keep_rates(run, place)
        if found is None:
            continue
        heatmap, rows = found
        heatmaps.append(heatmap)
        name = f" ({run.name})" if len(runs) > 1 else ""
        tables.append(
            folded(
                f"Kept in the last quarter of the run{name}",
                table(["class", "kept"], [[c, f"{r:.1%}"] for c, r in rows if math.isfinite(r)]),
            )
        )
    html = ""
    if heatmaps:
        html = paragraph(
            "The share of a class's samples that the gate kept. A class that stays light is one "
            "that the generator is taught less of; policy: balanced keeps classes in proportion.",
            faint=True,
        ) + "".join(tables)
    return Section("classes", "Kept share of each class", html, heatmaps=heatmaps)
