"""Puts numbers of the result files into the pages that quote them.

    python -m benchmarks.pages

Text between ``<!-- numbers:NAME -->`` and ``<!-- /numbers -->`` is made from the result files; a
test demands that the pages are up to date.
"""

import json
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.engine.speed import STUDIOGAN
from benchmarks.faults.catalogue import SECTIONS as FAULTS
from benchmarks.faults.results import table as faults_table
from benchmarks.mixture.explanation import CLAIMS
from benchmarks.mixture.release import CONFIRMATION, CONFIRMATION_SCHEDULES, name_of
from benchmarks.mixture.release_report import MEASURES, registered_verdict, verdict_lines
from benchmarks.paper import companions
from benchmarks.paper.claims import DISTANCE, claims, table
from benchmarks.paper.presets import PRESETS
from topk_plugin.base.files import atomic_write
from topk_plugin.base.intervals import UNDECIDED, interval
from topk_plugin.engine.config.table import written
from topk_plugin.engine.methods.method import Method
from topk_plugin.engine.methods.registry import all_methods
from topk_plugin.mixture.lab.explanation import CRITICS
from topk_plugin.mixture.report.style import label
from topk_plugin.mixture.report.summary import STEPS_TO_HALF
from topk_plugin.study.power import PAPERS_GAIN, pairs_for_the_papers_gain
from topk_plugin.study.report import change
from topk_plugin.study.results import percent

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
PAGES = tuple(
    ROOT / "docs" / f"{name}.md"
    for name in ("methods", "mixture", "reliability", "reproduction", "training")
)
BLOCK = re.compile(r"(<!-- numbers:(\w+) -->\n).*?(<!-- /numbers -->)", re.DOTALL)
SHOWN = {"high_quality": ".2f", "recovered": ".2f", "kl": ".2f", STEPS_TO_HALF: ",.0f"}


def main() -> None:
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        with atomic_write(page) as temporary:
            temporary.write_text(filled(text), encoding="utf-8")


def filled(text: str) -> str:
    """The text with every block made anew."""
    makers: dict[str, Callable[[], str]] = {
        "mixture_table": _mixture_table,
        "mixture_claims": _mixture_claims,
        "mixture_map": _mixture_map,
        "mixture_release": _mixture_release,
        "mixture_explanation": _mixture_explanation,
        "mixture_speed": _mixture_speed,
        "speed": _speed,
        "image_claims": lambda: table(claims(RESULTS)),
        "image_cpu": lambda: _images("cpu", DISTANCE),
        "image_anomaly": lambda: _images("anomaly", "auprc"),
        "image_anomaly_quality": lambda: _images("anomaly", DISTANCE),
        "image_ablations": lambda: _images("ablations", DISTANCE),
        "image_ranking": lambda: _ranking("cpu"),
        "methods_cost": _methods_cost,
        "methods_effect": lambda: companions.table(RESULTS),
        "faults": lambda: faults_table(FAULTS),
        **{
            f"keys_{re.sub('[^a-z0-9]', '_', method.name.lower())}": partial(_keys, method)
            for method in all_methods()
        },
    }
    return BLOCK.sub(lambda match: match[1] + makers[match[2]]() + match[3], text)


def _read(name: str) -> Any:
    return json.loads((RESULTS / name).read_text(encoding="utf-8"))


def _methods_cost() -> str:
    """What each method costs, largest first."""
    methods = _read("methods/methods.json")["methods"]
    lines = ["| method | time of a step |", "|---|---|"]
    for name, row in sorted(methods.items(), key=lambda item: -item[1]["ratio"]):
        low, high = row["interval"]
        lines.append(f"| {name} | {row['ratio']:.2f} [{low:.2f}, {high:.2f}] |")
    return "\n".join(lines) + "\n"


def _keys(method: Method) -> str:
    """The settings of a method."""
    lines = ["| key | default | allowed | |", "|---|---|---|---|"]
    for key in method.keys:
        about = ", ".join(part for part in (key.about, "*ours*" if key.ours else "") if part)
        default = "needed" if key.needed else f"`{written(key.default)}`"
        lines.append(f"| `{key.full_name}` | {default} | {key.rule.allowed} | {about} |")
    return "\n".join(lines) + "\n"


def _mixture_table() -> str:
    """Means with intervals; better and worse are marked against the full batch."""
    lines = [
        "| modes | arm | high-quality samples | recovered modes | KL of mode shares | "
        "steps to half |",
        "|---|---|---|---|---|---|",
    ]
    for training in _read("mixture/summary.json")["trainings"]:
        for arm in training["settings"]["arms"]:
            rows = {r["measure"]: r for r in training["rows"] if r["arm"] == arm["name"]}
            cells = [str(training["settings"]["modes"]), label(arm["name"])]
            for measure, form in SHOWN.items():
                row = rows[measure]
                low, high = row["interval"]
                text = f"{row['mean']:{form}} [{low:{form}}, {high:{form}}]"
                verdict = row.get("difference", {}).get("verdict", "not decided")
                cells.append(text if verdict == "not decided" else f"{text} **{verdict}**")
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _mixture_claims() -> str:
    """How often each claim about single steps was supported, not decided, reversed."""
    names = {
        "bottom_cosine": "bottom-k steps move samples away from their mode",
        "bottom_cosine_good": "the same for samples within 4 std",
        "top_minus_full_cosine": "top-k steps point better than full-batch steps",
        "top_minus_full_change": "top-k steps bring samples closer than full-batch steps",
        "effect_near_minus_far": "top-k's advantage over bottom-k is smaller within 1 std",
    }
    lines = ["| claim | supported | not decided | reversed |", "|---|---|---|---|"]
    tested = [c for t in _read("mixture/summary.json")["trainings"] for c in t["claims"]]
    for claim, text in names.items():
        verdicts = [c["verdict"] for c in tested if c["claim"] == claim]
        counts = [verdicts.count(v) for v in ("supported", "not decided", "reversed")]
        lines.append(f"| {text} | {' | '.join(map(str, counts))} |")
    return "\n".join(lines) + "\n"


def _mixture_release() -> str:
    """The confirmation of the released schedules, and how much of it there is."""
    content = _read("mixture-release/confirmation.json")
    settings = content["settings"]
    arms = next(iter(settings.values()))["arms"]
    lines = [f"| setting | {' | '.join(arms)} |", "|---" * (len(arms) + 1) + "|"]
    for name, setting in settings.items():
        full = [f"{np.mean(setting['values'][measure][0]):.2f}" for measure in MEASURES]
        cells = [" / ".join(full)]
        for a in range(len(arms) - 1):
            shown = []
            for measure in MEASURES:
                compared = setting["differences"][measure][a]
                # stored so that above 0 is better
                mean = -compared["mean"] if measure == "kl" else compared["mean"]
                text = f"{mean:+.2f}"
                shown.append(text if compared["verdict"] == UNDECIDED else f"**{text}**")
            cells.append(" / ".join(shown))
        lines.append(f"| {name} | {' | '.join(cells)} |")
    lines.append("")
    missing = [name for name in CONFIRMATION if name not in settings]
    if missing:
        lines.append(
            f"**Unfinished**: {len(settings)} of {len(CONFIRMATION)} registered settings are "
            f"there. Not yet run: {'; '.join(missing)}."
        )
    for schedule in CONFIRMATION_SCHEDULES[2:]:
        arm = name_of(schedule)
        found = registered_verdict(content, arm, name_of(CONFIRMATION_SCHEDULES[0]))
        lines += ["", f"*{arm}*{', so far' if missing else ''}:", ""]
        paper = name_of(CONFIRMATION_SCHEDULES[0])
        lines += verdict_lines(found, arm, paper, len(settings), bool(missing))
    return "\n".join(lines) + "\n"


def _mixture_explanation() -> str:
    """Claims about the kept and the dropped part, in the middle phase, with both critics."""
    content = _read("mixture-explanation/small.json")
    columns = [(critic, kind) for kind in ("gradient", "optimizer") for critic in CRITICS]
    words = {"gradient": "gradient step", "optimizer": "optimiser's step"}
    names = [f"{words[kind]}, {critic} critic" for critic, kind in columns]
    lines = [f"| claim | {' | '.join(names)} |", "|---" * (len(names) + 1) + "|"]
    found = {
        (c["claim"], c["critic"], c["kind"]): c for c in content["claims"] if c["phase"] == "middle"
    }
    for claim, (text, _) in CLAIMS.items():
        cells = []
        for critic, kind in columns:
            entry = found[claim, critic, kind]
            low, high = entry["interval"]
            cell = f"{entry['mean']:+.3f} [{low:+.3f}, {high:+.3f}]"
            verdict = entry["verdict"]
            cells.append(cell if verdict == UNDECIDED else f"**{cell}** {verdict}")
        lines.append(f"| {text} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _mixture_map() -> str:
    """Differences of the high-quality fraction to the full batch, a row a setting."""
    groups = _read("mixture-map/map.json")["groups"]
    arms = [arm["name"] for arm in next(iter(groups.values()))["arms"]]
    lines = [
        f"| setting | full batch | {' | '.join(arms[1:])} |",
        "|---" * (len(arms) + 1) + "|",
    ]
    for name, group in groups.items():
        rows = [row for row in group["rows"] if row["measure"] == "high_quality"]
        cells = [f"{rows[0]['mean']:.2f}"]
        for row in rows[1:]:
            text = f"{row['difference']['mean']:+.2f}"
            decided = row["difference"]["verdict"] != "not decided"
            cells.append(f"**{text}**" if decided else text)
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _mixture_speed() -> str:
    """Seed-steps a second of both ways, by width."""
    lines = [
        "| width | plain loop, seed-steps/s | all at once | times faster [95 %] | "
        "of the machine's limit |",
        "|---|---|---|---|---|",
    ]
    for row in _read("mixture-speed/results.json")["rows"]:
        ours = row["vectorised"]
        low, high = ours["ratio"]["interval"]
        lines.append(
            f"| {row['width']} | {row['plain']['seed_steps_per_second']:.0f} | "
            f"{ours['seed_steps_per_second']:.0f} | {ours['ratio']['median']:.2f} "
            f"[{low:.2f}, {high:.2f}] | {ours['share_of_limit']:.0%} |"
        )
    return "\n".join(lines) + "\n"


def _speed() -> str:
    """Images a second of the trainers, and how many times StudioGAN's time they save."""
    result = _read("engine-speed/results.json")
    names = [n for n in result["rows"][0]["median"] if n.startswith("built in")]
    lines = [
        f"| config | channels | StudioGAN, fp32 | {' | '.join(names)} |",
        "|---" * (3 + len(names)) + "|",
    ]
    for row in result["rows"]:
        rates = {name: row["images_per_step"] / median for name, median in row["median"].items()}
        cells = [row["model"], str(row["channels"]), f"{rates[STUDIOGAN]:.0f} images/s"]
        for name in names:
            if name not in rates:
                cells.append("not measured")
                continue
            middle, low, high = row["ratio"][STUDIOGAN][name]
            cells.append(f"{rates[name]:.0f}: **{middle:.2f}** x [{low:.2f}, {high:.2f}]")
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _images(preset: str, measure: str) -> str:
    """Changes against the baselines of a reproduction's preset, a row a GAN and arm."""
    of_distance = measure == DISTANCE  # of which the paper reports a gain
    gain = f"{percent(PAPERS_GAIN):.0f}"
    names = ["GAN", "arm", "pairs", "baseline", "change [Student's 95 %]", "p, Holm", "verdict"]
    names += [f"pairs to see {gain} % [95 %]"] if of_distance else []
    lines = [f"| {' | '.join(names)} |", "|---" * len(names) + "|"]
    for row in _read(f"reproduce-{preset}/summary.json")["rows"]:
        found = row.get("difference")
        if row["measure"] != measure or found is None:
            continue
        digits = 2 if of_distance else 3
        cells = [
            *(row["gan"], row["arm"], str(row["pairs"]), f"{row['baseline']:.{digits}f}"),
            change(row),
            "" if found.get("holm") is None else f"{found['holm']:.2f}",
            found.get("verdict") or "runs missing",
            *([pairs_for_the_papers_gain(row)] if of_distance else []),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _ranking(preset: str) -> str:
    """The rank correlation of score and distance along the runs, a row a GAN and arm.

    "swing": the standard deviation over the looks of one run, averaged over runs.
    """
    folder = RESULTS / f"reproduce-{preset}" / "runs"
    lines: list[str] = []
    for gan in PRESETS[preset].gans:
        for arm in [each.name for each in gan.arms]:
            files = sorted((folder / gan.name.replace(" ", "-")).glob(f"{arm}-*.json"))
            read = [json.loads(file.read_text(encoding="utf-8")) for file in files]
            # "topk-*" finds runs of "topk-late" too
            runs = [run["history"] for run in read if run["arm"] == arm]
            if not runs:
                continue
            found = np.array([[look["rank_correlation"] for look in run] for run in runs])
            if not lines:
                shares = [f"{look['step'] / runs[0][-1]['step']:.0%}" for look in runs[0]]
                lines.append(
                    f"| GAN | arm | runs | {' | '.join(shares)} | after the start | swing |"
                )
                lines.append("|---" * (5 + len(shares)) + "|")
            trained = found[:, 1:].mean(axis=1)
            low, high = interval(trained) or [float("nan")] * 2
            cells = [gan.name, arm, str(len(runs)), *(f"{v:+.2f}" for v in found.mean(axis=0))]
            cells.append(f"{trained.mean():+.2f} [{low:+.2f}, {high:+.2f}]")
            cells.append(f"{found[:, 1:].std(axis=1, ddof=1).mean():.2f}")
            lines.append(f"| {' | '.join(cells)} |")
    if not lines:
        raise SystemExit(f"{folder} holds no runs of the {preset} preset")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
