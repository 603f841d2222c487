"""All faults, by section."""

from benchmarks.faults import (
    configs,
    damage,
    disk,
    kills,
    long,
    names,
    neighbours,
    numbers,
    signals,
    strangers,
)
from benchmarks.faults.fault import Fault

SECTIONS: dict[str, tuple[Fault, ...]] = {
    "A run that is hurt": (*kills.FAULTS, *signals.FAULTS),
    "The disk": disk.FAULTS,
    "The checkpoint": damage.FAULTS,
    "Numbers": numbers.FAULTS,
    "What is around a run": neighbours.FAULTS,
    "Input from strangers": (*strangers.FAULTS, *configs.FAULTS, *names.FAULTS),
    "Long and heavy": long.FAULTS,
}
