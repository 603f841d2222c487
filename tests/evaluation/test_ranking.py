"""Rank correlation of score and distance to the nearest real image."""

import math

import pytest
import torch
from scipy.stats import spearmanr

from topk_plugin.base.errors import UserError
from topk_plugin.evaluation.ranking import score_distance_correlation


def test_against_loops_within_the_class_and_over_all():
    generator = torch.Generator().manual_seed(0)
    features, real = (torch.randn(n, 3, generator=generator) for n in (40, 60))
    scores = torch.randn(40, generator=generator)
    labels, real_labels = torch.arange(40) % 4, torch.arange(60) % 3  # class 3 has no real image

    def slow(labels):
        pairs = []
        for i in range(40):
            distances = [
                (features[i] - real[j]).norm().item()
                for j in range(60)
                if labels is None or labels[i] == real_labels[j]
            ]
            if distances:
                pairs.append((scores[i].item(), min(distances)))
        return spearmanr(*zip(*pairs, strict=True)).statistic

    found = score_distance_correlation(
        scores, features, real, labels=labels, real_labels=real_labels
    )
    assert found == pytest.approx(slow(labels))
    overall = score_distance_correlation(scores, features, real)
    assert overall == pytest.approx(slow(None))
    assert abs(found - overall) > 1e-3


def test_a_critic_that_knows_the_distance_gets_minus_one():
    features = torch.arange(1.0, 9.0)[:, None]
    real = torch.zeros(3, 1)
    assert score_distance_correlation(-features[:, 0], features, real) == pytest.approx(-1)


def test_undefined_is_not_unrelated():
    features, real = torch.randn(8, 2), torch.randn(5, 2)
    assert math.isnan(score_distance_correlation(torch.ones(8), features, real))
    assert math.isnan(score_distance_correlation(torch.ones(1), features[:1], real))
    nobody = torch.full((8,), 9)
    labelled = {"labels": nobody, "real_labels": torch.zeros(5, dtype=torch.int64)}
    assert math.isnan(score_distance_correlation(torch.randn(8), features, real, **labelled))


def test_wrong_arguments_are_refused():
    features, real = torch.randn(4, 2), torch.randn(5, 2)
    with pytest.raises(UserError, match="1 of 4 scores"):
        score_distance_correlation(torch.tensor([1.0, 2, math.nan, 3]), features, real)
    with pytest.raises(ValueError, match="belong together"):
        score_distance_correlation(torch.randn(4), features, real, labels=torch.zeros(4))
