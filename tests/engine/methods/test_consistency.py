"""Consistency terms against the formula."""

import pytest
import torch

from topk_plugin.engine.methods.auxiliary_classifier import ClassifyingHead
from topk_plugin.engine.methods.consistency import latent_sensitivity, output_consistency
from topk_plugin.engine.methods.contrastive import EmbeddingHead
from topk_plugin.engine.networks.scoring import Head


def test_only_the_scores_count_without_an_embedding():
    first, second = torch.tensor([1.0, 2.0, 4.0]), torch.tensor([0.0, 4.0, 4.0])
    value = output_consistency(
        {"adv_output": first, "h": torch.rand(3, 2)},
        {"adv_output": second, "h": torch.rand(3, 2)},
        Head.compared,
    )
    torch.testing.assert_close(value, torch.tensor((1 + 4 + 0) / 3))


@pytest.mark.parametrize(
    ("head", "name"), [(EmbeddingHead, "embed"), (ClassifyingHead, "cls_output")]
)
def test_what_a_head_adds_counts_by_its_own_mean(head, name):
    first = {"adv_output": torch.tensor([1.0]), name: torch.tensor([[1.0, 2.0]])}
    second = {"adv_output": torch.tensor([3.0]), name: torch.tensor([[1.0, 5.0]])}
    value = output_consistency(first, second, head.compared)
    torch.testing.assert_close(value, torch.tensor(4 + 9 / 2))


def test_latent_sensitivity_is_the_mean_over_all_pixels():
    images, nearby = torch.zeros(2, 3, 4, 4), torch.zeros(2, 3, 4, 4)
    nearby[0, 1, 2, 3] = 2.0
    torch.testing.assert_close(latent_sensitivity(images, nearby), torch.tensor(4 / 96))


def test_both_sides_get_a_gradient():
    first, second = torch.randn(4, requires_grad=True), torch.randn(4, requires_grad=True)
    output_consistency({"adv_output": first}, {"adv_output": second}, Head.compared).backward()
    assert torch.equal(first.grad, -second.grad)
    assert first.grad.any()
