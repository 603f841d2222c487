"""The classifier's loss against the formula."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from topk_plugin.engine.methods.auxiliary_classifier import classification_loss


@given(
    rows=st.lists(
        st.tuples(st.lists(st.floats(-20, 20), min_size=3, max_size=3), st.integers(0, 2)),
        min_size=1,
        max_size=6,
    )
)
def test_minus_the_logarithm_of_the_probability_of_the_label(rows):
    expected = sum(
        math.log(sum(math.exp(logit) for logit in logits)) - logits[label] for logits, label in rows
    ) / len(rows)
    logits = torch.tensor([row for row, _ in rows], dtype=torch.float64)
    labels = torch.tensor([label for _, label in rows])
    assert classification_loss(logits, labels).item() == pytest.approx(expected, abs=1e-9)


def test_half_precision_is_raised():
    logits, labels = torch.randn(8, 5).bfloat16(), torch.arange(8) % 5
    value = classification_loss(logits, labels)
    assert value.dtype == torch.float32
    torch.testing.assert_close(value.double(), classification_loss(logits.double(), labels))
