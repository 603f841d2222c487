"""The model of a power cut finds what is not safe."""

from pathlib import Path

import pytest

from benchmarks.faults.power import worst_states

FOLDER = Path("/run/checkpoints")
NEW = [
    "open\t2\t/run/checkpoints/.last.tmp\t",
    "write\t2\t/run/checkpoints/.last.tmp\t",
    "fsync\t2\t/run/checkpoints/.last.tmp\t",
    "rename\t2\t/run/checkpoints/.last.tmp\t/run/checkpoints/last.pt",
    "fsync\t9\t/run/checkpoints\t",
]
KEPT = "link\t2\t/run/checkpoints/last.pt\t/run/checkpoints/previous.pt"
GONE = "unlink\t2\t/run/checkpoints/last.pt\t"
SECOND = [line.replace("\t2\t", "\t3\t") for line in NEW]


@pytest.mark.parametrize(
    ("calls", "safe"),
    [
        (NEW, True),
        (NEW[:2] + NEW[3:], False),  # a name for what is not on the disk
        ([*NEW[:2], NEW[3], NEW[2], NEW[4]], False),  # synced too late
        ([*NEW, KEPT, *SECOND], True),
        ([*NEW, *SECOND], True),  # the new one takes the old one's place at once
        ([*NEW, GONE, *SECOND], False),  # for a moment there is none
        ([*NEW, *SECOND[:2], *SECOND[3:]], False),
    ],
)
def test_unsafe_orders_are_found(calls: list[str], safe: bool) -> None:
    moments, states, broken = worst_states("\n".join(calls), FOLDER, ("last.pt", "previous.pt"))
    assert moments == len(calls)
    assert states >= moments
    assert (broken == []) is safe
