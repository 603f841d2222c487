"""Progress: what the schedule counts."""

import pytest

from topk_plugin import KSchedule
from topk_plugin.gate.progress import Progress


@pytest.mark.parametrize(("every", "expected"), [("epoch", 2), (1, 7), (3, 2), (8, 0)])
def test_a_schedule_counts_epochs_or_whole_blocks_of_steps(every, expected):
    progress = Progress()
    for _ in range(7):
        progress.end_step()
    for _ in range(2):
        progress.end_epoch()
    assert progress.of(KSchedule(0.9, 0.5, every=every)) == expected


def test_it_goes_on_from_its_state():
    progress = Progress(steps=5, epochs=2)
    other = Progress()
    other.load_state_dict(progress.state_dict())
    assert other == progress
