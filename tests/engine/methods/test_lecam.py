"""LeCam against plain Python numbers."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from topk_plugin.engine.methods.lecam import LeCam

scores = st.lists(st.floats(-5, 5, width=32), min_size=1, max_size=4)


def _by_hand(batches, start, decay):
    real_average = fake_average = 0.0
    penalties = []
    for step, (real, fake) in enumerate(batches):
        keep = 0.0 if step < start else decay
        real_average = keep * real_average + (1 - keep) * sum(real) / len(real)
        fake_average = keep * fake_average + (1 - keep) * sum(fake) / len(fake)
        above = sum(max(x - fake_average, 0) ** 2 for x in real) / len(real)
        below = sum(max(real_average - x, 0) ** 2 for x in fake) / len(fake)
        penalties.append(above + below if step > start else 0.0)
    return penalties


@given(
    batches=st.lists(st.tuples(scores, scores), min_size=1, max_size=6),
    start=st.integers(1, 4),
    decay=st.sampled_from([0.0, 0.5, 0.99]),
)
def test_averages_and_penalties(batches, start, decay):
    lecam = LeCam(start=start, decay=decay)
    computed = [
        lecam.penalty(
            torch.tensor(real, dtype=torch.float64), torch.tensor(fake, dtype=torch.float64), step
        ).item()
        for step, (real, fake) in enumerate(batches)
    ]
    assert computed == pytest.approx(_by_hand(batches, start, decay), rel=1e-9, abs=1e-9)


def test_the_gradient_pulls_scores_to_the_other_sides_average():
    lecam = LeCam(start=1, decay=0.5)
    for step in range(2):
        lecam.penalty(torch.tensor([1.0, 3.0]), torch.tensor([-1.0, 0.0]), step)
    real = torch.tensor([1.0, 3.0], requires_grad=True)
    fake = torch.tensor([-1.0, 0.0], requires_grad=True)
    lecam.penalty(real, fake, 2).backward()
    assert real.grad.tolist() == [1.5, 3.5]  # 2 (x + 1/2) / 2
    assert fake.grad.tolist() == [-3.0, -2.0]


def test_it_goes_on_from_its_state():
    lecam, other = LeCam(start=1, decay=0.9), LeCam(start=1, decay=0.9)
    assert lecam.state_dict() == {"real": None, "fake": None}
    batches = [(torch.randn(4), torch.randn(4)) for _ in range(5)]
    for step in range(3):
        lecam.penalty(*batches[step], step)
    other.load_state_dict(lecam.state_dict(), torch.device("cpu"))
    for step in (3, 4):
        assert lecam.penalty(*batches[step], step) == other.penalty(*batches[step], step) > 0


def test_switched_on_late_it_starts_from_the_first_batch():
    lecam = LeCam(start=1, decay=0.9)
    real, fake = torch.tensor([2.0, 4.0]), torch.tensor([0.0, 2.0])
    assert lecam.penalty(real, fake, 100).item() == (1 + 9) / 2 + (9 + 1) / 2
