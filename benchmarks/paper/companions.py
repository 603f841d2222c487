"""Which methods does top-k still help: the effects that companions_protocol.md registers.

    python -m benchmarks.paper.companions

Reads the summary.json of the preset ``companions`` and prints the tables; docs/methods.md quotes
them (``python -m benchmarks.pages``).
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from benchmarks.paper.claims import DISTANCE, Summary
from benchmarks.paper.companion_gans import COMPANION_GANS, VANILLA
from benchmarks.paper.gans import BASELINE
from topk_plugin.base.intervals import UNDECIDED, Values, difference, judge
from topk_plugin.study.results import percent
from topk_plugin.study.study import Gan

RESULTS: Final = Path(__file__).resolve().parents[1] / "results"
PRESET: Final = "companions"
EFFECTS: Final = ("alone", "top-k on top", "interaction")
NOT_RUN: Final = "not run yet"


@dataclass(frozen=True)
class Row:
    """One method in one setting.

    Attributes:
        method: an arm of the preset.
        base: what it is compared with.
        effects: names of ``EFFECTS`` -> a comparison of logarithms of ratios as
            :mod:`topk_plugin.base.intervals` makes it, with ``pairs``; None while runs are missing.
    """

    method: str
    base: str
    effects: dict[str, dict[str, Any] | None]


def base_of(gan: Gan, method: str) -> str:
    """The arm without the method: the one that differs in it alone."""
    arms = {arm.name: arm for arm in gan.arms}
    vanilla = set(arms[VANILLA].overrides) if VANILLA in arms else None
    own = set(arms[method].overrides)
    return VANILLA if vanilla is not None and vanilla < own else BASELINE


def with_top_k(arm: str) -> str:
    """The name of the same arm with top-k."""
    return "topk" if arm == BASELINE else f"{arm}+topk"


def rows_of(summary: Summary, gan: Gan) -> list[Row]:
    """A row for each method of a setting; the three effects tested as families by themselves."""
    methods = [a.name for a in gan.arms if a.name != BASELINE and "topk" not in a.name]
    rows = [_row(summary, gan, method) for method in methods]
    for name in EFFECTS:
        family = [found for row in rows if (found := row.effects[name]) is not None]
        if len(family) == len(rows):  # no verdict while runs are missing
            judge(family, lower_is_better=True)
    return rows


def _row(summary: Summary, gan: Gan, method: str) -> Row:
    base = base_of(gan, method)
    own, own_top, bare, bare_top = (
        _values(summary, gan, arm) for arm in (method, with_top_k(method), base, with_top_k(base))
    )
    on_top, of_base = _by_seed(own_top, own), _by_seed(bare_top, bare)
    interaction = None
    if on_top is not None and of_base is not None:
        both = sorted(on_top.keys() & of_base.keys())
        interaction = {seed: on_top[seed] - of_base[seed] for seed in both}
    return Row(
        method,
        base,
        {
            "alone": _compared(_by_seed(own, bare)),
            "top-k on top": _compared(on_top),
            "interaction": _compared(interaction),
        },
    )


def _values(summary: Summary, gan: Gan, arm: str) -> dict[int, float] | None:
    """Seed -> value, those that diverged left out; None while a run is missing."""
    found, missing, _ = summary.values(gan.name, arm, DISTANCE)
    return None if missing else found


def _by_seed(
    one: dict[int, float] | None, other: dict[int, float] | None
) -> dict[int, float] | None:
    """Seed -> log(one / other); None where one of them is not complete."""
    if one is None or other is None:
        return None
    return {seed: float(np.log(one[seed] / other[seed])) for seed in one if seed in other}


def _compared(effects: dict[int, float] | None) -> dict[str, Any] | None:
    if effects is None or len(effects) < 2:
        return None
    values: Values = np.array(list(effects.values()))
    return difference(values, np.zeros_like(values)) | {"pairs": len(values)}


def table(results: Path = RESULTS) -> str:
    """All settings as Markdown; one sentence where nothing was run."""
    summary = Summary(results, PRESET)
    if not (results / f"reproduce-{PRESET}" / "summary.json").exists():
        return (
            f"Not run yet; registered in [companions_protocol.md]"
            f"(../benchmarks/paper/companions_protocol.md): {summary.command}.\n"
        )
    parts = []
    for gan in COMPANION_GANS:
        lines = [
            f"*{gan.name}*, {gan.about}; change of the Frechet distance with its 95 % interval, "
            "decided effects bold:",
            "",
            f"| method | base | {' | '.join(EFFECTS)} |",
            "|---" * (2 + len(EFFECTS)) + "|",
            f"| (none) | | | {_shown(_plain_top_k(summary, gan))} | |",
        ]
        for row in rows_of(summary, gan):
            cells = [_shown(row.effects[name]) for name in EFFECTS]
            base = "" if row.base == BASELINE else row.base
            lines.append(f"| {row.method} | {base} | {' | '.join(cells)} |")
        parts.append("\n".join(lines) + "\n")
    return "\n".join(parts)


def _plain_top_k(summary: Summary, gan: Gan) -> dict[str, Any] | None:
    one, other = (_values(summary, gan, arm) for arm in ("topk", BASELINE))
    return _compared(_by_seed(one, other))


def _shown(effect: dict[str, Any] | None) -> str:
    if effect is None:
        return NOT_RUN
    text = f"{percent(effect['mean']):+.1f} %"
    if effect["interval"] is not None:
        low, high = map(percent, effect["interval"])
        text += f" [{low:+.1f}, {high:+.1f}]"
    verdict = effect.get("verdict", UNDECIDED)
    return text if verdict == UNDECIDED else f"**{text}** {verdict}"


def main() -> None:
    print(table())


if __name__ == "__main__":
    main()
