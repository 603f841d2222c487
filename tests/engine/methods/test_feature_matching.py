"""Feature matching against the formula."""

import torch

from topk_plugin.engine.methods.feature_matching import feature_matching_loss


def test_mean_absolute_difference_of_the_means():
    real = torch.tensor([[1.0, 4.0], [3.0, 0.0]])
    fake = torch.tensor([[0.0, 0.0], [3.0, 0.0], [0.0, 9.0]])
    torch.testing.assert_close(
        feature_matching_loss(real, fake), torch.tensor((abs(1 - 2) + abs(3 - 2)) / 2)
    )


def test_only_the_fakes_get_a_gradient():
    real = torch.randn(4, 3, requires_grad=True)
    fake = torch.randn(4, 3, requires_grad=True)
    feature_matching_loss(real, fake).backward()
    assert real.grad is None
    assert torch.equal(fake.grad.abs(), torch.full((4, 3), 1 / 12))
