"""The words and tables of the report, made from its numbers alone."""

from typing import Any

from topk_plugin.mixture.lab.settings import Arm, Settings
from topk_plugin.mixture.lab.target import HIGH_QUALITY_STD
from topk_plugin.mixture.report.style import TITLES, label
from topk_plugin.mixture.report.summary import STEPS_TO_HALF

CLAIMS = {
    "bottom_cosine": "bottom-k steps move samples away from their mode: cosine",
    "bottom_cosine_good": "the same for samples within 4 std: cosine",
    "top_minus_full_cosine": "top-k steps point better than full-batch steps: difference of "
    "cosines",
    "top_minus_full_change": "top-k steps bring samples closer than full-batch steps: difference "
    "of the relative change of distance",
    "effect_near_minus_far": "the advantage of top-k over bottom-k is smaller within 1 std: "
    "difference of advantages",
}
KINDS = {"gradient": "gradient", "optimizer": "optimiser"}


def report_text(content: dict[str, Any], measures: tuple[str, ...]) -> str:
    """The report; every number in it is in ``content`` (``summary.json``).

    Args:
        content: see :func:`topk_plugin.mixture.report.report.write_report`.
        measures: in the order of the tables.
    """
    trainings = content["trainings"]
    lines = ["# Top-k training on a mixture of Gaussians", "", *_how(content), ""]
    lines += ["## Result", "", *_sentences(trainings), *_diverged(trainings), ""]
    lines += ["![Measures with intervals](bars.png)", ""]
    for measure in measures:
        lines += _table(trainings, measure)
    lines += ["## Along the training", "", "![Curves](curves.png)", "", *_drift(trainings), ""]
    lines += ["![Distances to the nearest mode in the last fifth](distances.png)", ""]
    for training in trainings:
        modes = training["settings"]["modes"]
        lines += [f"### {modes} modes", "", f"![Samples](samples-{modes}.png)", ""]
        if len(training["settings"]["arms"]) > 1:
            lines += [f"![Training](training-{modes}.gif)", ""]
    if any(training["claims"] for training in trainings):
        lines += ["## Why: the oracle analysis", "", *_oracle(trainings)]
    return "\n".join(lines).rstrip() + "\n"


def _diverged(trainings: list[dict[str, Any]]) -> list[str]:
    """One line for each network that is no longer finite: its numbers mean nothing."""
    return [
        f"- **Diverged**: {training['settings']['modes']} modes, {found['arm']}, seed "
        f"{found['seed']}: samples are not finite from step {found['step']:,} on. They count as "
        "missing every mode; lower the learning rate before this arm is compared."
        for training in trainings
        for found in training.get("diverged", [])
    ]


def _how(content: dict[str, Any]) -> list[str]:
    trainings = content["trainings"]
    s = trainings[0]["settings"]
    versions = ", ".join(f"{name} {version}" for name, version in content["versions"].items())
    seconds = sum(training["seconds"] for training in trainings)
    spent = f"{seconds / 60:.0f} minutes" if seconds > 100 else f"{seconds:.0f} seconds"
    lines = [
        f"`{content['command']}`",
        "",
        f"Seeds {', '.join(map(str, s['seeds']))}; a seed has the same initial weights, data and "
        f"latents in every arm. {s['layers']} hidden layers of {s['width']} in both networks, "
        f"{s['loss']} loss, Adam {s['lr']:g} with betas {s['beta1']:g}/{s['beta2']:g}, batch "
        f"{s['batch']}, {s['steps']:,} steps with {s['critic_steps']} critic update"
        f"{'s' * (s['critic_steps'] > 1)} each; measured {s['evaluations']} times on "
        f"{s['samples']:,} samples.",
    ]
    target = Settings.from_json(s).target
    lines.append(
        f"A sample is of high quality within {HIGH_QUALITY_STD:g} std of its nearest mean; samples "
        f"spread evenly over the grid would score {target.high_quality_by_chance:.2f} (dotted in "
        "the curves). Values are means over the evaluations in the last fifth of the training."
    )
    lines += _schedules(Settings.from_json(s).arms)
    lines += [
        f"{versions}; {content['hardware']['processor']}, {content['hardware']['cores']} cores; "
        f"{spent} of training.",
    ]
    return lines


def _schedules(arms: tuple[Arm, ...]) -> list[str]:
    """A sentence for each schedule of k, with the arms that follow it."""
    names: dict[str, list[str]] = {}
    for arm in arms:
        if not arm.drops_nothing:
            names.setdefault(_schedule(arm), []).append(label(arm.name))
    return [f"{', '.join(alike)}: {schedule}." for schedule, alike in names.items()]


def _schedule(arm: Arm) -> str:
    text = f"k falls by gamma {arm.gamma:g} every {arm.every:,} steps"
    if arm.onset:
        text += f" from step {arm.onset:,} on"
    text += f" to nu {arm.nu:g} of the batch"
    if arm.release_from is not None:
        text += f", and back to all of it from step {arm.release_from:,} to {arm.release_to:,}"
    return f"{text}; normalize {arm.normalize}"


def _sentences(trainings: list[dict[str, Any]]) -> list[str]:
    """What the verdicts say, in words."""
    said = []
    for training in trainings:
        baseline = training["settings"]["arms"][0]["name"]
        for row in training["rows"]:
            if row["measure"] != "high_quality" or "difference" not in row:
                continue
            difference = row["difference"]
            said.append(
                f"- {training['settings']['modes']} modes: {label(row['arm'])} gives "
                f"{row['mean']:.2f} high-quality samples, "
                f"{_number(difference['mean'], difference['interval'], '+.2f')} against "
                f"{label(baseline)}: **{difference['verdict']}**."
            )
    if said:
        said += [
            "",
            "A difference counts as decided where the paired t-test, corrected for the number of "
            "arms (Holm), is under 0.05. Brackets hold Student's intervals.",
        ]
    return said or ["One arm only: nothing to compare."]


def _table(trainings: list[dict[str, Any]], measure: str) -> list[str]:
    lines = [
        f"### {TITLES[measure][0].upper()}{TITLES[measure][1:]}",
        "",
        *_explained(measure),
        "| modes | arm | mean [95 %] | difference to the first arm [95 %] | paired t, Holm | "
        "Wilcoxon | verdict |",
        "|---|---|---|---|---|---|---|",
    ]
    for training in trainings:
        for row in training["rows"]:
            if row["measure"] != measure:
                continue
            cells = [str(training["settings"]["modes"]), label(row["arm"])]
            form = ",.0f" if measure == STEPS_TO_HALF else ".3f"
            cells.append(_number(row["mean"], row["interval"], form))
            if "difference" in row:
                d = row["difference"]
                cells.append(_number(d["mean"], d["interval"], "+" + form))
                cells += [_p(d["holm"]), _p(d["wilcoxon"]), d["verdict"]]
            else:
                cells += ["", "", "", ""]
            lines.append(f"| {' | '.join(cells)} |")
    return [*lines, ""]


def _explained(measure: str) -> list[str]:
    if measure != STEPS_TO_HALF:
        return []
    return [
        "And half of the modes recovered, at an evaluation; all steps of the training for a seed "
        "that never got there.",
        "",
    ]


def _drift(trainings: list[dict[str, Any]]) -> list[str]:
    lines = [
        "Is the high-quality fraction still moving? Last fifth minus the fifth before it:",
        "",
        "| modes | arm | drift [95 %] |",
        "|---|---|---|",
    ]
    for training in trainings:
        for row in training["rows"]:
            if row["measure"] == "high_quality":
                lines.append(
                    f"| {training['settings']['modes']} | {label(row['arm'])} | "
                    f"{_number(row['drift'], row['drift_interval'], '+.3f')} |"
                )
    return lines


def _oracle(trainings: list[dict[str, Any]]) -> list[str]:
    lines = [
        "One generator step on the better half (by the critic's score) of a batch, on its worse "
        "half, or on all of it; how every sample of the batch moves, against the direction to its "
        "nearest mode. Steps start from the networks of the arm, several times along its "
        "training; Student's intervals over seeds, verdicts corrected for all claims of one "
        "number of modes (Holm). An optimiser's step is mostly momentum, which all of them share.",
        "",
    ]
    for training in trainings:
        if not training["claims"]:
            continue
        modes = training["settings"]["modes"]
        lines += [
            f"### {modes} modes: claims",
            "",
            "| networks | step | claim | expected | estimate [95 %] | verdict |",
            "|---|---|---|---|---|---|",
        ]
        for c in training["claims"]:
            estimate = (
                "-" if c["estimate"] is None else _number(c["estimate"], c["interval"], "+.3f")
            )
            lines.append(
                f"| {label(c['arm'])} | {KINDS[c['kind']]} | {CLAIMS[c['claim']]} | "
                f"{c['expected']} | {estimate} | "
                f"{c['verdict']} |"
            )
        lines += ["", f"![Cosines](cosines-{modes}.png)", "", f"![Field](field-{modes}.png)", ""]
    return lines


def _number(value: float, interval: list[float] | None, form: str) -> str:
    """A number and its interval, each in the format ``form``."""
    if interval is None:
        return format(value, form)
    return f"{value:{form}} [{interval[0]:{form}}, {interval[1]:{form}}]"


def _p(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
