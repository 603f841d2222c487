"""DiffAugment against one image at a time."""

import pytest
import torch

from topk_plugin.engine.methods import diff_augment as differentiable_augmentation
from topk_plugin.engine.methods.diff_augment import (
    _cut_out,
    _shift,
    diff_augment,
)


def _generator(seed=1):
    return torch.Generator().manual_seed(seed)


def _colours_only(images, seed, monkeypatch):
    monkeypatch.setattr(differentiable_augmentation, "_shift", lambda x, _: x)
    monkeypatch.setattr(differentiable_augmentation, "_cut_out", lambda x, *_: x)
    return diff_augment(images, _generator(seed))


def test_colours_change_as_the_random_numbers_say(monkeypatch):
    images = torch.rand(5, 3, 8, 8, dtype=torch.float64) * 2 - 1
    results = _colours_only(images, 7, monkeypatch)
    numbers = torch.rand(3, 5, generator=_generator(7), dtype=torch.float64)
    for image, result, brightness, saturation, contrast in zip(
        images, results, *numbers.tolist(), strict=True
    ):
        expected = image + brightness - 0.5
        for row in range(8):
            for column in range(8):
                grey = expected[:, row, column].mean()
                expected[:, row, column] = grey + 2 * saturation * (expected[:, row, column] - grey)
        expected = expected.mean() + (0.5 + contrast) * (expected - expected.mean())
        torch.testing.assert_close(result, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("height", "width", "down", "right"), [(8, 8, 1, 1), (12, 32, 2, 4)])
def test_each_image_is_shifted_by_its_own_whole_pixels(height, width, down, right):
    images = torch.randn(400, 2, height, width)
    seen = set()
    for image, result in zip(images, _shift(images, _generator()), strict=True):
        padded = torch.nn.functional.pad(image, (right, right, down, down))
        outcomes = {
            (i, j): padded[:, i : i + height, j : j + width]
            for i in range(2 * down + 1)
            for j in range(2 * right + 1)
        }
        (found,) = [where for where, outcome in outcomes.items() if torch.equal(result, outcome)]
        seen.add(found)
    assert len(seen) == (2 * down + 1) * (2 * right + 1)


@pytest.mark.parametrize(
    ("height", "width", "share", "tall", "wide"),
    [(8, 8, 0.5, 4, 4), (6, 32, 0.5, 3, 16), (12, 32, 0.2, 2, 6)],
)
def test_a_rectangle_centred_anywhere_becomes_zero(height, width, share, tall, wide):
    images = torch.rand(2000, 2, height, width) + 1
    results = _cut_out(images, _generator(), share)
    seen = set()
    for image, result in zip(images, results, strict=True):
        cut = result[0] == 0
        assert torch.equal(result[1] == 0, cut)
        rows, columns = cut.any(1).nonzero().flatten(), cut.any(0).nonzero().flatten()
        top, bottom = int(rows[0]), int(rows[-1])
        left, end = int(columns[0]), int(columns[-1])
        assert cut[top : bottom + 1, left : end + 1].all()
        assert torch.equal(result[:, ~cut], image[:, ~cut])
        # a whole rectangle, or one that leaves the image at a side
        assert bottom - top + 1 == tall or top == 0 or bottom == height - 1
        assert end - left + 1 == wide or left == 0 or end == width - 1
        assert tall // 2 <= bottom - top + 1 <= tall
        assert wide // 2 <= end - left + 1 <= wide
        seen.add((top, bottom))
    # odd lengths have their centre on a pixel, even ones between two or at an edge
    assert len(seen) == height + (1 - tall % 2)


def test_rows_stay_apart_and_gradients_are_exact():
    images = torch.randn(4, 3, 8, 8, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: diff_augment(x, _generator()), images)
    (gradient,) = torch.autograd.grad(diff_augment(images, _generator())[2].sum(), images)
    assert gradient[2].any()
    assert not gradient[[0, 1, 3]].any()


def test_only_the_given_generator_is_drawn_from():
    images, before = torch.rand(5, 3, 16, 16), torch.get_rng_state()
    first, second, other = (diff_augment(images, _generator(seed)) for seed in (3, 3, 4))
    assert torch.equal(first, second)
    assert not torch.equal(first, other)
    assert torch.equal(torch.get_rng_state(), before)


def test_half_precision_is_raised():
    images = (torch.rand(4, 3, 16, 16) * 2 - 1).bfloat16()
    result = diff_augment(images, _generator())
    assert result.dtype == torch.float32
    assert torch.equal(result, diff_augment(images.float(), _generator()))
