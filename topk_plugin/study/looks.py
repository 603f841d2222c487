"""When a run is measured, and which of its measurements are its value."""

LATE = 0.75
"""A run's value is the mean over its measurements after this share of the steps: a single look's
noise is most of what pairs differ by."""


def looks_along(steps: int, looks: int, late_looks: int = 0) -> tuple[int, ...]:
    """The steps at which a run is measured, the last one always; step 0 is not counted.

    Args:
        steps: of the run.
        looks: measurements, evenly.
        late_looks: so many in the last quarter, evenly, in place of those of ``looks`` there; 0:
            those.
    """
    found = {max(1, round(steps * i / looks)) for i in range(1, looks + 1)}
    if late_looks:
        start = LATE * steps
        found = {step for step in found if step <= start}
        found |= {
            max(1, round(start + (steps - start) * i / late_looks))
            for i in range(1, late_looks + 1)
        }
    return tuple(sorted(found | {steps}))


def late(history: list[dict[str, float]]) -> dict[str, float]:
    """The mean of every measure over the looks in the last quarter of a run.

    Args:
        history: a dict a look, with its "step"; the last one is the end of the run.

    Returns:
        Measure -> mean over the looks that have it; "step" of the end.
    """
    end = history[-1]["step"]
    looks = [look for look in history if look["step"] > LATE * end or look is history[-1]]
    names = dict.fromkeys(name for look in looks for name in look)
    found = {}
    for name in names:
        values = [look[name] for look in looks if name in look]
        found[name] = sum(values) / len(values)
    return found | {"step": end}
