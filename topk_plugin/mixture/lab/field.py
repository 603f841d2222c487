"""Where single updates move the samples of one replica, for a picture."""

from typing import Any

import torch

from topk_plugin.mixture.lab.ensemble import Ensemble
from topk_plugin.mixture.lab.oracle import ANALYSIS_STREAM, displacements
from topk_plugin.mixture.lab.randomness import generator_of

DECIMALS = 4
"""Of stored positions; displacements, which are small, get as many significant digits."""


def displacement_field(ensemble: Ensemble) -> dict[str, Any]:
    """Samples of the first seed's replica of the first arm, and where gradient steps move them.

    Returns:
        Plain data: ``positions`` [n][2] before the step; ``top``, ``bottom``, ``full`` [n][2]:
        displacements by a plain gradient step on those rows, see
        :func:`topk_plugin.mixture.lab.oracle.displacements`.
    """
    settings = ensemble.settings
    shape = (settings.batch, settings.latent)
    latents = torch.randn(shape, generator=generator_of(settings.seeds[0], ANALYSIS_STREAM))
    steps = displacements(ensemble, latents.expand(len(settings.seeds), *shape))
    moved = {update: d[0].tolist() for update, d in steps.moved["gradient"].items()}
    return {
        "positions": [[round(v, DECIMALS) for v in xy] for xy in steps.samples[0].tolist()],
        **{
            update: [[float(f"{v:.{DECIMALS}g}") for v in xy] for xy in rows]
            for update, rows in moved.items()
        },
    }
