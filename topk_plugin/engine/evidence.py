"""What was measured about settings that a run is about to use."""

import operator
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from topk_plugin.engine.config.config import Config

_COMPARE: dict[str, Callable[[Any, Any], bool]] = {
    "=": operator.eq,
    "<": operator.lt,
    "<=": operator.le,
    ">=": operator.ge,
}
Condition = tuple[str, str, Any]
"""Key of the config, one of "=", "<", "<=", ">=", and the value to compare with."""


@dataclass(frozen=True)
class Finding:
    """Settings under which something was seen.

    Attributes:
        where: all of these hold; a key that is not given holds nothing.
        seen: what was seen; {names} stand for the values of keys of section.key.
        above_all: a further condition under which it was seen most, and what to say of that.
        record: the benchmark's file that says so, below benchmarks/results.
        page: where it is described.
    """

    where: tuple[Condition, ...]
    seen: str
    above_all: tuple[Condition, str]
    record: str
    page: str


FINDINGS = (
    # Small networks on 2-D data: a reason to compare, no more.
    Finding(
        where=(
            ("LOSS.apply_topk", "=", True),
            ("OPTIMIZATION.type_", "=", "Adam"),
            ("OPTIMIZATION.beta1", "<=", 0.5),
            ("OPTIMIZATION.beta2", ">=", 0.999),
        ),
        seen="with Adam's betas {OPTIMIZATION.beta1:g} and {OPTIMIZATION.beta2:g} top-k cost "
        "sample quality on the mixture of Gaussians",
        above_all=(
            ("LOSS.topk_nu", "<", 0.5),
            "the more the lower nu; here nu is {LOSS.topk_nu:g}",
        ),
        record="mixture-map/map.json",
        page="docs/mixture.md",
    ),
)
"""Each is held against its record by tests/engine/test_evidence.py."""


def describe_evidence(config: Config) -> list[str]:
    """A line for each of ``FINDINGS`` that the run's settings fall under."""
    return [_describe(found, config) for found in FINDINGS if _hold(found.where, config)]


def _describe(found: Finding, config: Config) -> str:
    line = f"note: {_fill(found.seen, config)} ({found.page})"
    condition, more = found.above_all
    if _hold((condition,), config):
        line += f", {_fill(more, config)}"
    return f"{line}; compare with the same seed and LOSS.apply_topk=false"


def _hold(conditions: tuple[Condition, ...], config: Config) -> bool:
    for key, comparison, wanted in conditions:
        value = _value(config, key)
        if value is None or not _COMPARE[comparison](value, wanted):
            return False
    return True


def _fill(text: str, config: Config) -> str:
    sections = {name: getattr(config, name) for name in ("LOSS", "OPTIMIZATION")}
    return text.format(**sections)


def _value(config: Config, key: str) -> Any:
    section, name = key.split(".")
    return getattr(getattr(config, section), name, None)
