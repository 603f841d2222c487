"""Does the critic prefer the generated images that are near real ones?"""

import math

import torch
from scipy.stats import spearmanr
from torch import Tensor

from topk_plugin.base.errors import UserError


def score_distance_correlation(
    scores: Tensor,
    features: Tensor,
    real: Tensor,
    *,
    labels: Tensor | None = None,
    real_labels: Tensor | None = None,
) -> float:
    """Spearman's rank correlation of score and distance to the nearest real image.

    Under 0: the critic scores images higher that are near real ones, which is what top-k training
    counts on. With labels, only real images of the class that was asked for are near ones.

    Args:
        scores: [N], the critic's.
        features: [N, D] of the same generated images.
        real: [M, D], features of real images by the same extractor. Give all of them, or a random
            part: files come sorted by class.
        labels: int64 [N], the classes asked for; None: any real image counts.
        real_labels: int64 [M], together with ``labels``. Generated images of a class without a
            real one are left out.

    Returns:
        A value in [-1, 1]; NaN where it is undefined: under two images, or all scores or all
        distances equal. Leave such a value out; 0 would say "unrelated".

    Raises:
        ValueError: one of the two kinds of labels without the other.
        UserError: a score is not finite.
    """
    if (labels is None) != (real_labels is None):
        raise ValueError("labels and real_labels belong together, got one of them")
    if not bool(scores.isfinite().all()):
        raise UserError(
            f"{int((~scores.isfinite()).sum())} of {len(scores)} scores of the critic are not "
            "finite: the training has diverged; measure a checkpoint from before"
        )
    nearest = torch.full((len(features),), math.inf)
    if labels is None or real_labels is None:
        nearest = torch.cdist(features, real).amin(dim=1)
    else:
        for label in labels.unique().tolist():
            of_class = real[real_labels == label]
            if len(of_class):
                asked = labels == label
                nearest[asked] = torch.cdist(features[asked], of_class).amin(dim=1)
    counted = nearest.isfinite()
    scores, nearest = scores[counted], nearest[counted]
    if len(scores.unique()) < 2 or len(nearest.unique()) < 2:
        return math.nan
    return float(spearmanr(scores.double().numpy(), nearest.double().numpy()).statistic)
