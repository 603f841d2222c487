"""Flip and shift against explicit padding and cropping of one image."""

from collections import Counter

import pytest
import torch
import torch.nn.functional as F

from topk_plugin.engine.methods.flip_and_shift import flip_and_shift


def _outcomes(image):
    """Each possible result [C, H, W] of augmenting ``image`` with its (flip, down, right)."""
    height, width = image.shape[1:]
    down, right = height // 8, width // 8
    results = []
    for flip in (False, True):
        flipped = image.flip(2) if flip else image
        padded = F.pad(flipped[None], (right, right, down, down), mode="reflect")[0]
        for i in range(2 * down + 1):
            for j in range(2 * right + 1):
                results.append(
                    ((flip, i - down, j - right), padded[:, i : i + height, j : j + width])
                )
    return results


@pytest.mark.parametrize(("height", "width"), [(8, 8), (8, 16), (32, 32)])
def test_each_result_is_a_flip_and_a_reflected_shift(height, width):
    torch.manual_seed(0)
    images = torch.randn(6, 3, height, width)
    augmented = flip_and_shift(images, torch.Generator().manual_seed(1))
    assert augmented.shape == images.shape
    for image, result in zip(images, augmented, strict=True):
        assert sum(torch.equal(result, outcome) for _, outcome in _outcomes(image)) == 1


def test_all_outcomes_are_equally_likely():
    image = torch.arange(128.0).view(1, 8, 16)
    outcomes = {
        tuple(outcome.flatten().tolist()): settings for settings, outcome in _outcomes(image)
    }
    assert len(outcomes) == 2 * 3 * 5
    count = 9000
    results = flip_and_shift(image.expand(count, 1, 8, 16), torch.Generator().manual_seed(0))
    seen = Counter(outcomes[tuple(row)] for row in results.flatten(1).tolist())
    expected = count / len(outcomes)
    chi_square = sum((seen[key] - expected) ** 2 / expected for key in outcomes.values())
    # 29 degrees of freedom: 0.999 quantile.
    assert chi_square < 58.3


def test_gradient_returns_to_the_source_pixels():
    images = torch.randn(4, 2, 8, 8, dtype=torch.float64, requires_grad=True)
    weights = torch.randn(4, 2, 8, 8, dtype=torch.float64)

    def augmented(x):
        return flip_and_shift(x, torch.Generator().manual_seed(5))

    (gradient,) = torch.autograd.grad((augmented(images) * weights).sum(), images)
    # The augmentation is linear: its gradient at a pixel is its response to that pixel alone.
    for n, row, column in ((0, 0, 0), (1, 3, 4), (2, 7, 7), (3, 1, 6)):
        unit = torch.zeros_like(images)
        unit[n, 1, row, column] = 1
        expected = (augmented(unit) * weights).sum()
        torch.testing.assert_close(gradient[n, 1, row, column], expected)


def test_only_the_given_generator_is_drawn_from():
    images = torch.randn(5, 3, 16, 16)
    before = torch.get_rng_state()
    first = flip_and_shift(images, torch.Generator().manual_seed(3))
    second = flip_and_shift(images, torch.Generator().manual_seed(3))
    assert torch.equal(first, second)
    assert not torch.equal(first, flip_and_shift(images, torch.Generator().manual_seed(4)))
    assert torch.equal(torch.get_rng_state(), before)
