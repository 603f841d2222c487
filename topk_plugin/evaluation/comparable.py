"""Whether values of two runs may stand beside each other."""

from collections.abc import Mapping
from typing import Any

# Said of a measurement, but no part of what decides a value: its fingerprints do.
TELLS_ONLY = (
    "reason",
    "seed",
    "weights",
    "weights_are_torch_fidelitys",
    "network",
    "task",
    "held_out_accuracy",
    "trained_on",
    "recipe_fingerprint",
    "feature_dims",
    "reference",
    "reference_size",
)


def differences(one: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    """Why values of two measurements can't be compared; empty where they can.

    Args:
        one: ``measured_with`` of a result.json, or what ``Evaluator.describe`` gave.
        other: the same of the other measurement.

    Returns:
        A phrase for each fact that differs, e.g. "input_size 96 and 128".
    """
    names = [name for name in {**one, **other} if name not in TELLS_ONLY]
    return [
        f"{name} {_shown(one.get(name))} and {_shown(other.get(name))}"
        for name in names
        if one.get(name) != other.get(name)
    ]


def _shown(value: Any) -> str:
    """A hash by its beginning."""
    if value is None:
        return "(none)"
    return value[:8] if isinstance(value, str) and len(value) == 64 else str(value)
