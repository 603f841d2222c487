"""Masking of what the critic sees, after MaskedGAN (Huang et al. 2022, "Masked Generative
Adversarial Networks are Data-Efficient Generation Learners").

The paper hides parts of every image from the critic in space ("shifted spatial masking") and in
frequency ("balanced spectral masking"), against a critic that judges by few places when data are
scarce. Its code is not public; patch size, shares, bands, and the rule of the band probabilities
are this project's:

- space: a grid of patches with an offset of its own for each image, drawn uniformly; each patch is
  hidden (0, mid grey) with probability ``mask_patches``;
- frequency: rings of equal width by radius; a ring is hidden with probability
  ``mask_bands * (its energy / mean energy of the rings) ** mask_balance``, at most 0.9, where the
  energy is a running mean over the real images; ``mask_balance`` 0 treats all alike. The mean of an
  image (frequency 0) is never hidden.

Every image has a mask of its own, real and fake alike, in both networks' updates. It is a view
behind the gate of top-k training and behind DiffAugment: a hidden pixel gets exactly no gradient,
a dropped sample has a row of zeros.
"""

from collections.abc import Iterator, Mapping
from typing import Any, Final

import torch
from torch import Tensor

from topk_plugin.base.errors import UserError
from topk_plugin.engine.draws import integers, uniform
from topk_plugin.engine.keys.key import Key, When, switch
from topk_plugin.engine.keys.rules import Number, Whole
from topk_plugin.engine.keys.settings import Settings
from topk_plugin.engine.methods.method import CriticStep, Gan, Method, Term
from topk_plugin.gate import ranks

MOST_OFTEN = 0.9
ENERGY_DECAY = 0.99


def spatial_mask(
    count: int, size: int, patch: int, share: float, generator: torch.Generator
) -> Tensor:
    """Which pixels are hidden, a shifted grid of patches an image.

    Args:
        count: images.
        size: pixels a side.
        patch: pixels a side of a patch.
        share: probability of each patch.
        generator: source of the random numbers; the mask is on its device.

    Returns:
        bool [count, 1, size, size].
    """
    device = generator.device
    cells = -(-size // patch) + 1
    hidden = uniform((count, cells, cells), generator) < share
    offsets = integers(0, patch, (count, 2), generator)
    places = (torch.arange(size, device=device) + offsets[..., None]) // patch
    rows, columns = places[:, 0, :, None], places[:, 1, None, :]
    image = torch.arange(count, device=device)[:, None, None]
    return hidden[image, rows, columns][:, None]


def rings(size: int, bands: int, device: torch.device) -> Tensor:
    """The ring of every frequency of ``rfft2``, int64 [size, size // 2 + 1]; -1 for frequency 0."""
    vertical = torch.fft.fftfreq(size, device=device)[:, None]
    horizontal = torch.fft.rfftfreq(size, device=device)[None]
    radius = (vertical.square() + horizontal.square()).sqrt()
    ring = (radius / radius.max() * bands).long().clamp(max=bands - 1)
    return ring.masked_fill(radius == 0, -1)


def without_bands(images: Tensor, hidden: Tensor, ring: Tensor) -> Tensor:
    """Images without the frequencies of their hidden rings.

    Args:
        images: [N, C, S, S], floating point; half precisions are raised to fp32.
        hidden: bool [N, bands].
        ring: see :func:`rings`.

    Returns:
        [N, C, S, S], differentiable.
    """
    images = images.to(torch.promote_types(images.dtype, torch.float32))
    gone = hidden[:, ring.clamp(min=0)] & (ring >= 0)
    spectrum = torch.fft.rfft2(images) * ~gone[:, None]
    return torch.fft.irfft2(spectrum, s=images.shape[-2:])


class Masking(Term):
    """A view of every image."""

    def __init__(self, settings: Settings) -> None:
        aug, self._size = settings.AUG, settings.DATA.img_size
        self._patch: int = aug.mask_patch_size
        self._patches: float = aug.mask_patches
        self._bands: int = aug.mask_rings
        self._band_share: float = aug.mask_bands
        self._balance: float = aug.mask_balance

    def setup(self, gan: Gan) -> None:
        self._random, self._device = gan.random, gan.device
        self._ring = rings(self._size, self._bands, gan.device)
        self._energy = torch.ones(self._bands, device=gan.device)

    def view(self, images: Tensor) -> Tensor:
        count = len(images)
        if self._band_share > 0:
            drawn = uniform((count, self._bands), self._random)
            images = without_bands(images, drawn < self.band_probabilities(), self._ring)
        if self._patches > 0:
            hidden = spatial_mask(count, self._size, self._patch, self._patches, self._random)
            images = images.masked_fill(hidden, 0)
        return images

    def band_probabilities(self) -> Tensor:
        """How often each ring is hidden now, [rings]."""
        weights = (self._energy / self._energy.mean()) ** self._balance
        return (self._band_share * weights).clamp(max=MOST_OFTEN)

    def critic_terms(self, step: CriticStep) -> Iterator[Tensor]:
        if self._band_share > 0 and self._balance > 0:
            self._measure(step.real.images.detach())
        yield from ()

    @torch.no_grad()
    def _measure(self, real: Tensor) -> None:
        joined = ranks.gather_batch(real).to(self._energy.dtype)
        power = torch.fft.rfft2(joined).abs().square().mean((0, 1))
        inside = self._ring >= 0
        totals = torch.zeros_like(self._energy).index_add_(0, self._ring[inside], power[inside])
        self._energy = torch.lerp(totals, self._energy, ENERGY_DECAY)

    def scalars(self) -> dict[str, Tensor]:
        if self._band_share == 0:
            return {}
        return {f"masking/band_{i}": p for i, p in enumerate(self.band_probabilities())}

    def state_dict(self) -> dict[str, Any]:
        return {"energy": self._energy}

    def load_state_dict(self, state: Mapping[str, Any], device: torch.device) -> None:
        self._energy = state["energy"].to(device)


def _check(settings: Settings) -> None:
    aug = settings.AUG
    if aug.mask_patches == 0 and aug.mask_bands == 0:
        raise UserError(
            "AUG.apply_masking hides nothing while AUG.mask_patches and AUG.mask_bands are both 0; "
            "raise one of them"
        )
    if aug.mask_patch_size > settings.DATA.img_size:
        raise UserError(
            f"AUG.mask_patch_size is {aug.mask_patch_size}, larger than the images "
            f"(DATA.img_size {settings.DATA.img_size}); an eighth of them is usual"
        )
    if aug.apply_diffaug and aug.diffaug_type == "diffaug" and aug.mask_patches > 0:
        raise UserError(
            "AUG.apply_masking hides patches and AUG.diffaug_type 'diffaug' cuts a quarter of the "
            "image out already, so that the critic sees little; set AUG.mask_patches to 0, or use "
            "diffaug_type 'cr'"
        )


_SHARE: Final = Number(at_least=0.0, at_most=MOST_OFTEN)

MASKING: Final = Method(
    "masking",
    on=When("AUG", "apply_masking"),
    term=Masking,
    keys=(
        switch("AUG", "apply_masking", ours=True),
        Key("AUG", "mask_patch_size", 4, Whole(1), ours=True, about="pixels a side"),
        Key("AUG", "mask_patches", 0.25, _SHARE, ours=True, about="share of patches hidden"),
        Key("AUG", "mask_rings", 8, Whole(1), ours=True, about="frequency bands"),
        Key("AUG", "mask_bands", 0.1, _SHARE, ours=True, about="share of bands hidden"),
        Key(
            "AUG",
            "mask_balance",
            0.0,
            Number(at_least=0.0, at_most=1.0),
            ours=True,
            about="0: all bands alike; 1: in proportion to their energy",
        ),
    ),
    check=_check,
)
