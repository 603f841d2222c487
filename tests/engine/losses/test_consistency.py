"""Consistency terms against the formula."""

import torch

from topk_plugin.engine.losses.consistency import latent_sensitivity, output_consistency


def test_only_the_scores_count_without_an_embedding():
    first, second = torch.tensor([1.0, 2.0, 4.0]), torch.tensor([0.0, 4.0, 4.0])
    value = output_consistency(
        {"adv_output": first, "h": torch.rand(3, 2)}, {"adv_output": second, "h": torch.rand(3, 2)}
    )
    torch.testing.assert_close(value, torch.tensor((1 + 4 + 0) / 3))


def test_embeddings_add_their_own_mean():
    first = {"adv_output": torch.tensor([1.0]), "embed": torch.tensor([[1.0, 2.0]])}
    second = {"adv_output": torch.tensor([3.0]), "embed": torch.tensor([[1.0, 5.0]])}
    torch.testing.assert_close(output_consistency(first, second), torch.tensor(4 + 9 / 2))


def test_classifiers_add_their_logits():
    first = {"adv_output": torch.tensor([1.0]), "cls_output": torch.tensor([[1.0, 2.0]])}
    second = {"adv_output": torch.tensor([3.0]), "cls_output": torch.tensor([[1.0, 5.0]])}
    torch.testing.assert_close(output_consistency(first, second), torch.tensor(4 + 9 / 2))


def test_latent_sensitivity_is_the_mean_over_all_pixels():
    images, nearby = torch.zeros(2, 3, 4, 4), torch.zeros(2, 3, 4, 4)
    nearby[0, 1, 2, 3] = 2.0
    torch.testing.assert_close(latent_sensitivity(images, nearby), torch.tensor(4 / 96))


def test_both_sides_get_a_gradient():
    first, second = torch.randn(4, requires_grad=True), torch.randn(4, requires_grad=True)
    output_consistency({"adv_output": first}, {"adv_output": second}).backward()
    assert torch.equal(first.grad, -second.grad)
    assert first.grad.any()
