"""Discriminator rejection sampling (Azadi et al. 2019, arXiv 1810.06758), as Dia-GAN uses it.

A critic's logit l estimates log p_data / p_generator. A generated image is kept with probability
sigma(F - gamma), where::

    F = l - M - log(1 - exp(l - M - 1e-6))

M is the largest logit seen, over 50 batches of 256 to begin with, and gamma the 80th percentile of
F in the batch, so that about a quarter is kept. (Formula and constants: Dia-GAN's code.)
"""

from typing import Final

import torch
from torch import Tensor, nn

from topk_plugin.engine.divergence import NotFinite
from topk_plugin.engine.latents import LatentSource
from topk_plugin.engine.sample_grid import to_uint8
from topk_plugin.gate.scores import mean_score

BATCH: Final = 256
FIRST_BATCHES: Final = 50
PERCENTILE: Final = 0.8
_EPS: Final = 1e-6


def acceptance(logits: Tensor, largest: Tensor) -> Tensor:
    """The probability with which each image of a batch is kept.

    Args:
        logits: float64 [N].
        largest: M, 0-d, at least as large as all of them.
    """
    below = logits - largest
    f = below - torch.log(-torch.expm1(below - _EPS))
    return torch.sigmoid(f - torch.quantile(f, PERCENTILE))


class Rejection:
    """Draws images that a critic lets pass.

    Args:
        sampler: a generator in evaluation mode.
        judge: the critic, put into evaluation mode.
        source: of the latents; moved on.
        seed: of what is left to chance about keeping.

    Attributes:
        drawn, kept: how many images were looked at, and how many of them kept, the first batches
            aside.
    """

    def __init__(
        self, sampler: nn.Module, judge: nn.Module, source: LatentSource, *, seed: int
    ) -> None:
        self._sampler = sampler
        self._judge = judge.eval()
        self._source = source
        # on the CPU, so that every device is offered the same chances
        self._chance = torch.Generator().manual_seed(seed)
        self._largest = torch.tensor(-torch.inf, dtype=torch.float64)
        self._begun = False
        self.drawn = self.kept = 0

    @property
    def kept_share(self) -> float:
        """The share of images that were kept."""
        return self.kept / max(1, self.drawn)

    @torch.no_grad()
    def draw(self, labels: Tensor) -> Tensor:
        """An image for each of ``labels``, int64 [N] on the sampler's device.

        Uint8 [N, 3, S, S] on the CPU.

        Candidates are drawn for the labels that have none yet, ``BATCH`` at once; the first that is
        kept is a label's. Ends always: of every batch a tenth or more is kept on average.

        Raises:
            NotFinite: an image or a logit is NaN or infinite.
        """
        if not self._begun:
            for _ in range(FIRST_BATCHES):
                self._candidates(labels[self._some_of(torch.arange(len(labels))).to(labels.device)])
            self._begun = True
        found = None
        missing = torch.arange(len(labels))
        while len(missing):
            places = self._some_of(missing)
            images, logits = self._candidates(labels[places.to(labels.device)])
            chance = torch.rand(BATCH, dtype=torch.float64, generator=self._chance)
            passed = torch.nonzero(chance < acceptance(logits, self._largest))[:, 0]
            self.drawn += BATCH
            self.kept += len(passed)
            first = torch.full((len(labels),), BATCH)
            first.scatter_reduce_(0, places[passed], passed, "amin")
            filled = torch.nonzero(first < BATCH)[:, 0]
            if found is None:
                found = torch.empty((len(labels), *images.shape[1:]), dtype=torch.uint8)
            found[filled] = to_uint8(images[first[filled].to(images.device)]).cpu()
            missing = missing[first[missing] == BATCH]
        assert found is not None, "there is a label"
        return found

    def _some_of(self, places: Tensor) -> Tensor:
        """``BATCH`` of ``places`` [n], each once or, of fewer, as often as it goes."""
        shuffled = places[torch.randperm(len(places), generator=self._chance)]
        return shuffled[torch.arange(BATCH) % len(places)]

    def _candidates(self, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Images, and the judge's logits, float64 on the CPU."""
        images = self._sampler(self._source.latents(len(labels)), labels)
        out = self._judge(images, labels)
        logits = mean_score(out["adv_output"], len(images)).double().cpu()
        if not bool(images.isfinite().all()) or not bool(logits.isfinite().all()):
            raise NotFinite(
                "the generator's images or the second critic's logits are not finite numbers: the "
                "training has diverged; give an earlier checkpoint, or train again with a lower "
                "learning rate"
            )
        self._largest = torch.maximum(self._largest, logits.amax())
        return images, logits
