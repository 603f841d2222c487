"""Feature matching (Salimans et al. 2016, arXiv 1606.03498, section 3.1), as StudioGAN has it."""

from torch import Tensor


def feature_matching_loss(real_features: Tensor, fake_features: Tensor) -> Tensor:
    """Mean absolute difference of the two batches' mean features, a scalar.

    The features are the critic's, in front of its last layers ("h"). The real ones are a constant
    to the gradient. (The paper squares the differences.)

    Args:
        real_features: [N, D].
        fake_features: [M, D].
    """
    return (fake_features.mean(0) - real_features.detach().mean(0)).abs().mean()
