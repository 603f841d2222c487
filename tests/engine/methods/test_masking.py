"""Masking: which pixels and which frequencies are hidden."""

import math

import pytest
import torch
from torch import Tensor

from tests.engine.tiny import REGULARIZERS, tiny_config, tiny_trainer
from topk_plugin.base.errors import UserError
from topk_plugin.engine.methods.masking import rings, spatial_mask, without_bands

CPU = torch.device("cpu")


def source(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def images(count: int = 3, size: int = 16) -> Tensor:
    return torch.rand(count, 3, size, size, generator=source(), dtype=torch.float64) * 2 - 1


@pytest.mark.parametrize("patch", [1, 3, 4, 5])
def test_patches_are_hidden_whole_on_a_shifted_grid(patch: int) -> None:
    size, offsets = 16, set()
    for mask in spatial_mask(400, size, patch, 0.4, source())[:, 0]:
        candidates = [
            (row, column)
            for row in range(patch)
            for column in range(patch)
            if _is_on_grid(mask, patch, row, column)
        ]
        assert candidates
        if len(candidates) == 1:
            offsets |= set(candidates)
    assert len(offsets) == (patch**2 if patch > 1 else 1)


def _is_on_grid(mask: Tensor, patch: int, row: int, column: int) -> bool:
    padded = torch.zeros(len(mask) + 2 * patch, len(mask) + 2 * patch)
    known = torch.zeros_like(padded)
    place = (
        slice(patch - row, patch - row + len(mask)),
        slice(patch - column, patch - column + len(mask)),
    )
    padded[place] = mask.float()
    known[place] = 1
    cells = padded.unfold(0, patch, patch).unfold(1, patch, patch).sum((-2, -1))
    seen = known.unfold(0, patch, patch).unfold(1, patch, patch).sum((-2, -1))
    return bool(((cells == 0) | (cells == seen)).all())


def test_the_share_of_hidden_pixels_is_the_share_asked_for() -> None:
    hidden = spatial_mask(10_000, 8, 4, 0.25, source())
    assert hidden.float().mean().item() == pytest.approx(0.25, abs=0.01)
    assert not spatial_mask(10, 8, 4, 0.0, source()).any()


def test_bands_add_up_to_the_image_and_the_mean_is_never_hidden() -> None:
    x, ring = images(), rings(16, 5, CPU)
    assert set(ring.unique().tolist()) == {-1, 0, 1, 2, 3, 4}
    mean = x.mean((2, 3), keepdim=True)
    alone = []
    for band in range(5):
        hidden = torch.ones(3, 5, dtype=torch.bool)
        hidden[:, band] = False
        alone.append(without_bands(x, hidden, ring) - mean)
    torch.testing.assert_close(sum(alone) + mean, x, atol=1e-12, rtol=0)
    nothing = without_bands(x, torch.zeros(3, 5, dtype=torch.bool), ring)
    torch.testing.assert_close(nothing, x, atol=1e-12, rtol=0)
    everything = without_bands(x, torch.ones(3, 5, dtype=torch.bool), ring)
    torch.testing.assert_close(everything, mean.expand_as(x), atol=1e-12, rtol=0)


def test_a_hidden_ring_is_gone_from_the_full_spectrum() -> None:
    """Against the slow way: the full transform, every frequency looked at by its radius."""
    x, bands = images(1, 8), 3
    hidden = torch.tensor([[False, True, False]])
    spectrum = torch.fft.fft2(without_bands(x, hidden, rings(8, bands, CPU)))
    for i in range(8):
        for j in range(8):
            radius = math.hypot(min(i, 8 - i) / 8, min(j, 8 - j) / 8)
            ring = min(int(radius / math.hypot(0.5, 0.5) * bands), bands - 1)
            is_gone = spectrum[0, :, i, j].abs().max() < 1e-9
            assert is_gone == (ring == 1 and radius > 0)


def test_hidden_pixels_get_exactly_no_gradient() -> None:
    trainer = tiny_trainer({"AUG": {"apply_masking": True, "mask_bands": 0.0}})
    x = torch.rand(8, 3, 32, 32, requires_grad=True)
    view = trainer.terms["masking"].view(x)
    (gradient,) = torch.autograd.grad(view.sum(), x)
    assert torch.equal(gradient != 0, (view != 0) | (x == 0))
    assert 0 < (gradient == 0).float().mean() < 1


def test_balanced_bands_are_hidden_in_proportion_to_their_energy() -> None:
    change = {"AUG": {"apply_masking": True, "mask_balance": 1.0, "mask_bands": 0.2}}
    trainer = tiny_trainer(change)
    term = trainer.terms["masking"]
    assert term.band_probabilities().unique().numel() == 1
    for _ in range(3):
        trainer.step()
    probabilities = term.band_probabilities()
    assert probabilities.max() <= 0.9
    assert probabilities.std() > 0
    torch.testing.assert_close(
        probabilities, (0.2 * term._energy / term._energy.mean()).clamp(max=0.9)
    )


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ([{"AUG": {"mask_patches": 0.0, "mask_bands": 0.0}}], "hides nothing"),
        ([{"AUG": {"mask_patch_size": 64}}], "larger than the images"),
        ([REGULARIZERS["DiffAugment"]], "critic sees little"),
    ],
)
def test_settings_that_make_no_sense_are_refused(changes: list[dict], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        tiny_config({"AUG": {"apply_masking": True}}, *changes)
