"""Tables of the released schedule's trainings, and the verdict on what was registered."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import spearmanr

from topk_plugin.base.environment import environment
from topk_plugin.base.files import atomic_write
from topk_plugin.base.intervals import Values, difference, judge, stratified
from topk_plugin.mixture.report.summary import LOWER_IS_BETTER, late, thinned_curves

MEASURES = {
    "high_quality": "fraction of high-quality samples",
    "recovered": "fraction of recovered modes",
    "kl": "KL of the modes' shares from the mixture's, nats (lower is better)",
}
THINNED = 10
"""Points of a curve that are kept."""
PROXIES_FROM = 0.1
"""Part of the training from which on proxies are compared with the measures: k is at its floor."""


def phase_content(results: dict[str, dict[str, Any]], command: str) -> dict[str, Any]:
    """What is kept of a phase: every seed's late means, thinned curves, comparisons.

    Args:
        results: setting -> content of its ``result.json``; the first arm is the full batch.
        command: that made them.

    Returns:
        Plain data: ``command``; ``environment``; ``settings``: setting -> ``settings`` (all of
        them), ``minutes``, ``arms``: names, ``values``: measure -> [arm][seed] means over the
        evaluations of the last fifth, ``curves``: ``steps`` and measure ->
        [time][arm] means over seeds at some evaluations, ``differences``: measure -> one dict for
        each arm after the first, see :func:`topk_plugin.base.intervals.judge`, corrected for the
        measures of that arm and setting; ``proxies``: proxy -> measure -> Spearman's rank
        correlation over all arms, seeds and evaluations from a tenth of the training on, see
        :func:`topk_plugin.mixture.lab.proxies.proxies`.
    """
    settings = {}
    for name, result in results.items():
        values = {measure: late(result, measure) for measure in MEASURES}
        arms = [arm["name"] for arm in result["settings"]["arms"]]
        curves = thinned_curves(result, THINNED)
        settings[name] = {
            "settings": result["settings"],
            "minutes": round(result["seconds"] / 60, 1),
            "arms": arms,
            "values": {m: np.round(v, 4).tolist() for m, v in values.items()},
            "curves": {
                m: curves[m] if m == "steps" else np.round(np.mean(curves[m], -1), 3).tolist()
                for m in ("steps", *MEASURES)
            },
            "differences": _differences(values),
            "proxies": _proxies(result),
        }
    return {
        "command": command,
        "environment": environment(),
        "settings": settings,
    }


def _proxies(result: dict[str, Any]) -> dict[str, dict[str, float]]:
    seen = np.array(result["steps"]) >= PROXIES_FROM * result["steps"][-1]
    return {
        proxy: {
            measure: round(
                float(
                    spearmanr(
                        np.array(watched)[seen].ravel(),
                        np.array(result["series"][measure])[seen].ravel(),
                        nan_policy="omit",
                    ).statistic
                ),
                2,
            )
            for measure in MEASURES
        }
        for proxy, watched in result["watched"].items()
    }


def _differences(values: dict[str, Values]) -> dict[str, list[dict[str, Any]]]:
    """Each arm against the first, by measure; corrected over the measures."""
    found: dict[str, list[dict[str, Any]]] = {measure: [] for measure in values}
    arms = len(next(iter(values.values())))
    for a in range(1, arms):
        family = []
        for measure, v in values.items():
            # the sign is turned so that above 0 is better in every measure
            sign = -1 if measure in LOWER_IS_BETTER else 1
            family.append(difference(sign * v[a], sign * v[0]))
        judge(family, lower_is_better=False)
        for measure, compared in zip(values, family, strict=True):
            found[measure].append(compared)
    return found


def registered_verdict(content: dict[str, Any], released: str, paper: str) -> dict[str, Any]:
    """The registered claim on ``released``, see release_protocol.md.

    Returns:
        Plain data: ``harm``: [setting, measure] where it is decided worse than the full batch;
        ``gains``: a dict for each setting where ``paper`` is decided better than the full batch in
        high-quality samples, with ``setting``, ``paper`` and ``released``, their mean gains;
        ``against_full`` and ``against_paper``: measure -> pooled over the settings, each counting
        alike (above 0: released is better), see :func:`topk_plugin.base.intervals.stratified`;
        ``holds``: whether there is no harm and no gain is smaller than the paper's.
    """
    harm, gains = [], []
    pooled: dict[str, dict[str, Any]] = {"against_full": {}, "against_paper": {}}
    for measure in MEASURES:
        sign = -1 if measure in LOWER_IS_BETTER else 1
        against: dict[str, list[Values]] = {"against_full": [], "against_paper": []}
        for name, setting in content["settings"].items():
            arms = setting["arms"]
            r, p = arms.index(released), arms.index(paper)
            v = sign * np.array(setting["values"][measure])
            against["against_full"].append(v[r] - v[0])
            against["against_paper"].append(v[r] - v[p])
            compared = setting["differences"][measure]
            if compared[r - 1]["verdict"] == "worse":
                harm.append([name, measure])
            if measure == "high_quality" and compared[p - 1]["verdict"] == "better":
                means = {"paper": compared[p - 1]["mean"], "released": compared[r - 1]["mean"]}
                gains.append({"setting": name, **means})
        for other, groups in against.items():
            pooled[other][measure] = stratified(groups)
    smaller = [gain for gain in gains if gain["released"] < gain["paper"]]
    return {"harm": harm, "gains": gains, **pooled, "holds": not harm and not smaller}


def write_phase(content: dict[str, Any], path: Path) -> None:
    """Write one phase's numbers."""
    with atomic_write(path) as temporary:
        text = json.dumps(content, separators=(",", ":"))
        # a line a setting keeps differences of the file readable
        temporary.write_text(text.replace('},"', '},\n"') + "\n", encoding="utf-8")


def tables(content: dict[str, Any]) -> list[str]:
    """Markdown: a table a measure, a row a setting; differences to the full batch."""
    lines: list[str] = []
    settings = content["settings"]
    arms = next(iter(settings.values()))["arms"]
    for measure, title in MEASURES.items():
        lines += [f"**{title[0].upper()}{title[1:]}**", ""]
        lines += [f"| setting | {' | '.join(arms)} |", "|---" * (len(arms) + 1) + "|"]
        sign = -1 if measure in LOWER_IS_BETTER else 1
        for name, setting in settings.items():
            cells = [f"{np.mean(setting['values'][measure][0]):.2f}"]
            for compared in setting["differences"][measure]:
                text = f"{sign * compared['mean']:+.2f}"
                if compared["verdict"] != "not decided":
                    text = f"**{text}** {compared['verdict']}"
                cells.append(text)
            lines.append(f"| {name} | {' | '.join(cells)} |")
        lines.append("")
    return lines


def verdict_lines(
    found: dict[str, Any], released: str, paper: str, total: int, unfinished: bool
) -> list[str]:
    """The registered verdict in words."""
    lines = []
    if found["harm"]:
        where = "; ".join(
            f"{setting} ({MEASURES[m].split(',')[0]})" for setting, m in found["harm"]
        )
        lines.append(f"- Decided worse than the full batch in: {where}.")
    else:
        lines.append(f"- Decided worse than the full batch in none of {total} settings.")
    smaller = [gain for gain in found["gains"] if gain["released"] < gain["paper"]]
    lines.append(
        f"- {paper} is decided better than the full batch in high-quality samples in "
        f"{len(found['gains'])} of {total} settings; {released} gains at least as much in "
        f"{len(found['gains']) - len(smaller)} of those"
        + "".join(
            f"; in {g['setting']} {g['released']:+.2f} against {g['paper']:+.2f}" for g in smaller
        )
        + "."
    )
    for other, words in (("against_full", "the full batch"), ("against_paper", paper)):
        for measure, pooled in found[other].items():
            sign = -1 if measure in LOWER_IS_BETTER else 1
            text = f"{sign * pooled['mean']:+.3f}"
            if pooled["interval"] is not None:
                low, high = sorted(sign * end for end in pooled["interval"])
                text += f" [{low:+.3f}, {high:+.3f}], p = {pooled['t_test']:.2g}"
            lines.append(f"- Pooled over settings, {MEASURES[measure]}, minus {words}: {text}.")
    if not unfinished:
        lines.append(f"- The registered claim {'holds' if found['holds'] else 'does not hold'}.")
    elif not found["holds"]:
        lines.append("- The registered claim can no longer hold, whatever is still to come.")
    return lines


def write_page(folder: Path, *, released: list[str], papers: list[str], planned: list[str]) -> None:
    """Write ``README.md`` from the phases' files that are there.

    Args:
        folder: of the results.
        released: the arms that the registered claim is about, the first one first.
        papers: the arms with the paper's schedule, the one of the claim first.
        planned: the settings of the confirmation.
    """
    lines = [
        "# A schedule that releases k again",
        "",
        "k falls to its floor nu B within the first tenth of the training; the paper's schedule "
        "stays there, a released one rises in a straight line back to the whole batch between two "
        "points of the training. Means over the evaluations in the last fifth; the first column is "
        "the full batch, the others are differences to it, paired by seed; **better** or **worse** "
        "where Student's test, corrected for the three measures (Holm), is under 0.05. What was "
        "asked of the confirmation before it was run: "
        "[release_protocol.md](../../mixture/release_protocol.md). Every seed's values and thinned "
        "curves are in the JSON files.",
        "",
    ]
    titles = {
        "confirmation": "Confirmation",
        "development": "Development: windows and floors",
        "rules": "Development: lower floors, and rules without a window",
    }
    for phase, title in titles.items():
        path = folder / f"{phase}.json"
        if not path.exists():
            continue
        content = json.loads(path.read_text(encoding="utf-8"))
        settings = content["settings"]
        if not settings:
            continue
        seeds = len(next(iter(settings.values()))["settings"]["seeds"])
        minutes = sum(setting["minutes"] for setting in settings.values())
        lines += [f"## {title}", ""]
        lines += [f"`{content['command']}`, {seeds} seeds, {minutes:.0f} minutes.", ""]
        if phase == "confirmation":
            missing = [name for name in planned if name not in settings]
            if missing:
                lines += [
                    f"**Unfinished**: {len(settings)} of {len(planned)} settings; not yet run: "
                    f"{'; '.join(missing)}. No verdict before all are there.",
                    "",
                ]
            for arm in released:
                found = registered_verdict(content, arm, papers[0])
                lines += [f"### {arm}", ""]
                lines += verdict_lines(found, arm, papers[0], len(settings), bool(missing))
                lines.append("")
        lines += tables(content)
        if phase == "development":
            lines += _proxy_table(content)
    with atomic_write(folder / "README.md") as temporary:
        temporary.write_text("\n".join(lines).rstrip() + "\n", encoding="utf-8")


def _proxy_table(content: dict[str, Any]) -> list[str]:
    settings = content["settings"]
    lines = [
        "### What could be watched instead of a window",
        "",
        "Spearman's rank correlation with high-quality samples / with the KL of mode shares, over "
        "all arms, seeds and evaluations after the first tenth. auc: how often the critic scores a "
        "real sample above a generated one; gap: difference of its mean scores in standard "
        "deviations; spread: standard deviation of its scores of generated samples over that of "
        "real ones; agreement: cosine of the generator's gradients by the better half and by all.",
        "",
    ]
    names = list(next(iter(settings.values()))["proxies"])
    lines += [f"| setting | {' | '.join(names)} |", "|---" * (len(names) + 1) + "|"]
    for name, setting in settings.items():
        cells = [
            f"{setting['proxies'][proxy]['high_quality']:+.2f} / "
            f"{setting['proxies'][proxy]['kl']:+.2f}"
            for proxy in names
        ]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return [*lines, ""]
