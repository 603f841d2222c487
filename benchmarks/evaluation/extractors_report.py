"""The tables of :mod:`benchmarks.evaluation.extractors`."""

from itertools import pairwise
from typing import Any

from topk_plugin.evaluation.extractor_names import NETWORKS

REAL = "real images, {:,}"
DISTANCES = {"frechet_distance": "Frechet distance", "kernel_distance": "kernel distance"}


def report(results: dict[str, Any]) -> str:
    """README.md for the results."""
    samples = results["samples"]
    extractors = results["extractors"]
    env = results["environment"]
    lines = [
        "# What the feature extractors see",
        "",
        f"`{results['command']}`",
        "",
        f"Data: {results['data']}, compared with {results['reference']}. topk-plugin "
        f"{env['topk_plugin']}, Python {env['python']}, torch {env['torch']}, {env['system']}, "
        f"{env['cpu_threads']} CPU thread(s).",
        "",
        "| extractor | features | CPU ms an image | nearest image of the same class | "
        f"Frechet distance of {samples:,} real images (standard deviation of sets) |",
        "|---|---|---|---|---|",
    ]
    for spec, measured in extractors.items():
        rows, facts = measured["rows"], measured["measured_with"]
        size = f", {facts['input_size']} px, {facts['resize']}" if "input_size" in facts else ""
        if "held_out_accuracy" in facts:
            size = f", {facts['held_out_accuracy']:.1%} of held-out images right"
        real = rows[REAL.format(samples)]
        lines.append(
            f"| {spec} | {NETWORKS[facts['extractor']]}{size} | "
            f"{rows['milliseconds']['an_image']:.2f} | "
            f"{real['nearest_of_the_same_class']:.1%} | {real['frechet_distance']:.4g} "
            f"({real['frechet_distance_std']:.2g}) |"
        )
    lines.append("")
    for measure in DISTANCES:
        lines += _damage_table(results, measure)
    lines += _shape_table(results)
    for measure in DISTANCES:
        lines += _count_table(results, measure)
    return "\n".join(lines).rstrip() + "\n"


def _damage_table(results: dict[str, Any], measure: str) -> list[str]:
    """What a distance says to every damage, in its own size and in standard deviations."""
    extractors = results["extractors"]
    shown = DISTANCES[measure]
    lines = [
        f"## Damaged images, {results['samples']:,} a set: {shown}",
        "",
        f"{shown[:1].upper()}{shown[1:]} above that of as many real images; behind it how many "
        "standard deviations of real sets that is. A kind of damage whose distance does not rise "
        "from level to level, or whose first level is under 3 standard deviations, is marked.",
        "",
        f"| damage | {' | '.join(extractors)} |",
        "|---" * (1 + len(extractors)) + "|",
    ]
    remarks: list[str] = []
    for name, levels in results["damages"].items():
        found = {spec: _excess(results, spec, name, levels, measure) for spec in extractors}
        for index, level in enumerate(levels):
            cells = []
            for values in found.values():
                if values is None:
                    cells.append("")
                    continue
                excess, deviations = values[index]
                cells.append(f"{excess:.4g} ({deviations:,.0f})")
            lines.append(f"| {name.format(f'{level:g}')} | {' | '.join(cells)} |")
        for spec, values in found.items():
            if values is None:
                continue
            if any(b[0] <= a[0] for a, b in pairwise(values)):
                remarks.append(f'- {spec}: does not rise with "{name.format("...")}".')
            if values[0][1] < 3:
                remarks.append(
                    f'- {spec}: does not see "{name.format(f"{levels[0]:g}")}" '
                    f"({values[0][1]:.1f} standard deviations)."
                )
    return [*lines, "", *(remarks or ["Every distance rises with every damage."]), ""]


def _excess(
    results: dict[str, Any], spec: str, name: str, levels: list[float], measure: str
) -> list[tuple[float, float]] | None:
    """Distance above real images' and the same in standard deviations, for each level."""
    rows = results["extractors"][spec]["rows"]
    if name.format(f"{levels[0]:g}") not in rows:
        return None
    real = rows[REAL.format(results["samples"])]
    base, std = real[measure], real[f"{measure}_std"]
    found = [rows[name.format(f"{level:g}")][measure] - base for level in levels]
    return [(value, value / std) for value in found]


def _shape_table(results: dict[str, Any]) -> list[str]:
    """Precision, recall, density and coverage of the damaged sets."""
    extractors = results["extractors"]
    names = ("precision", "recall", "density", "coverage")
    lines = [
        "## Precision, recall, density, coverage of the same sets",
        "",
        f"| damage | {' | '.join(extractors)} |",
        "|---" * (1 + len(extractors)) + "|",
    ]
    shown = [REAL.format(results["samples"])]
    shown += [
        name.format(f"{level:g}") for name, levels in results["damages"].items() for level in levels
    ]
    for row in shown:
        cells = [
            " ".join(f"{measured['rows'][row][name]:.2f}" for name in names)
            if row in measured["rows"]
            else ""
            for measured in extractors.values()
        ]
        lines.append(f"| {row} | {' | '.join(cells)} |")
    return [*lines, ""]


def _count_table(results: dict[str, Any], measure: str) -> list[str]:
    """Bias and spread of a distance by the number of images."""
    extractors = results["extractors"]
    about = (
        "Frechet distance of undamaged real images, which would be 0 for infinitely many on both "
        "sides; behind it the standard deviation of disjoint sets, where there are at least two. "
        "Where it was asked for, the distance extrapolated to infinitely many images (fid_inf) "
        "follows; the reference's own size is not extrapolated."
        if measure == "frechet_distance"
        else "Kernel distance of the same sets. It has no bias: its mean over many sets is 0, or "
        "what the two splits really differ by."
    )
    lines = [
        f"## Bias and spread by the number of images: {DISTANCES[measure]}",
        "",
        about,
        "",
        f"| images | {' | '.join(extractors)} |",
        "|---" * (1 + len(extractors)) + "|",
    ]
    prefix = REAL.split("{")[0]
    counted = {
        int(row.removeprefix(prefix).replace(",", ""))
        for measured in extractors.values()
        for row in measured["rows"]
        if row.startswith(prefix)
    }
    for count in sorted(counted):
        cells = []
        for measured in extractors.values():
            row = measured["rows"].get(REAL.format(count), {})
            parts = [
                _with_spread(row, name) for name in (measure, f"{measure}_infinity") if name in row
            ]
            cells.append(", extrapolated ".join(parts))
        lines.append(f"| {count:,} | {' | '.join(cells)} |")
    return [*lines, ""]


def _with_spread(row: dict[str, Any], name: str) -> str:
    value = f"{row[name]:.4g}"
    std = row.get(f"{name}_std")
    return value if std is None else f"{value} ({std:.2g})"
