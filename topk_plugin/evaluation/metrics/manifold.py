"""Precision, recall, density and coverage: which images lie among those of the other set.

Around every real image (and, for recall, every generated one) lies a ball that reaches to its k-th
nearest neighbour in its own set.

- Precision, recall (Kynkaanniemi et al., arXiv 1904.06991, k = 3): the part of the generated
  (real) images inside any real (generated) image's ball, border included, as in torch-fidelity.
- Density (Naeem et al., arXiv 2002.09797, k = 5): in how many real images' balls a generated image
  lies, on average, divided by k. It can exceed 1.
- Coverage (same paper, k = 5): the part of the real images' balls that hold a generated image. It
  does not count a ball twice, so repeated images raise nothing, and real outliers don't inflate it.
  Both exclude the border, as in the paper's package ``prdc``.
"""

from typing import Any

import torch
from torch import Tensor

from topk_plugin.evaluation.metrics.record import Generated, Key, Metric, Reference

PRECISION_NEIGHBOUR = 3
DENSITY_NEIGHBOUR = 5
MOST_SAMPLES = 10_000
"""At most so many images of either set are taken: the cost grows with the square (50,000 take a
minute on two cores, at every evaluation)."""
# Rows of a block of the distance matrix, so that a block takes 40 MB at most.
ROWS = 1024


def precision_recall_density_coverage(
    fake: Tensor, real: Tensor, real_radii: tuple[Tensor, Tensor] | None = None
) -> tuple[float, float, float, float]:
    """The four values.

    Args:
        fake: [N, D] features of generated images, N > 5.
        real: [M, D] features of real images, M > 5.
        real_radii: what :func:`radii` gave for ``real``, where it is known.
    """
    narrow, wide = radii(real) if real_radii is None else real_radii
    fake_narrow, _ = radii(fake)
    inside_any = torch.zeros(len(fake), dtype=torch.bool)
    inside = torch.zeros(len(fake), dtype=torch.int64)
    recalled, covered = 0, 0
    for start in range(0, len(real), ROWS):
        rows = slice(start, start + ROWS)
        distances = torch.cdist(real[rows], fake)
        inside_any |= (distances <= narrow[rows, None]).any(dim=0)
        recalled += int((distances <= fake_narrow).any(dim=1).sum())
        in_ball = distances < wide[rows, None]
        inside += in_ball.sum(dim=0)
        covered += int(in_ball.any(dim=1).sum())
    return (
        float(inside_any.double().mean()),
        recalled / len(real),
        float(inside.double().mean()) / DENSITY_NEIGHBOUR,
        covered / len(real),
    )


def radii(features: Tensor) -> tuple[Tensor, Tensor]:
    """Distances from each of [N, D] to its 3rd and 5th nearest neighbour among the others: [N]."""
    nearest = torch.cat(
        [
            # the nearest of all is the image itself
            torch.cdist(part, features).topk(DENSITY_NEIGHBOUR + 1, largest=False).values
            for part in features.split(ROWS)
        ]
    )
    return nearest[:, PRECISION_NEIGHBOUR], nearest[:, DENSITY_NEIGHBOUR]


def random_part(features: Tensor, seed: int) -> Tensor:
    """At most ``MOST_SAMPLES`` rows, drawn at random: images often come sorted by class."""
    if len(features) <= MOST_SAMPLES:
        return features
    generator = torch.Generator().manual_seed(seed)
    return features[torch.randperm(len(features), generator=generator)[:MOST_SAMPLES]]


def _values(generated: Generated, reference: Reference, seed: int) -> tuple[float, ...]:
    def real_part(features: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        part = random_part(features, seed)
        return part, radii(part)

    real, real_radii = reference.once(f"manifold, seed {seed}", real_part)
    fake = random_part(generated.features, seed)
    return precision_recall_density_coverage(fake, real, real_radii)


def _conventions(samples: int | None, reference: int) -> dict[str, Any]:
    return {
        "prdc_samples_at_most": MOST_SAMPLES,
        "precision_recall_neighbour": PRECISION_NEIGHBOUR,
        "density_coverage_neighbour": DENSITY_NEIGHBOUR,
    }


def _key(name: str) -> Key:
    return Key(name, name, name, name, higher_is_better=True)


MANIFOLD = Metric(
    name="prdc",
    measures="precision, recall, density, coverage",
    keys=(_key("precision"), _key("recall"), _key("density"), _key("coverage")),
    fewest=DENSITY_NEIGHBOUR + 1,
    values=_values,
    conventions=_conventions,
)
