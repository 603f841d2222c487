"""Frechet and kernel distance, Inception Score, precision and recall of generated images.

All formulas are torch-fidelity's. All metrics of a run stand on one extractor, and values measured
with the built-in extractor never carry the names of the Inception metrics: they are comparable with
each other only.
"""

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset
from torch_fidelity.metric_fid import (
    KEY_METRIC_FID,
    fid_features_to_statistics,
    fid_statistics_to_metric,
)
from torch_fidelity.metric_isc import KEY_METRIC_ISC_MEAN, isc_features_to_metric
from torch_fidelity.metric_kid import KEY_METRIC_KID_MEAN, kid_features_to_metric
from torch_fidelity.metric_prc import (
    KEY_METRIC_PRECISION,
    KEY_METRIC_RECALL,
    prc_features_to_metric,
)

from topk_plugin.base.errors import UserError
from topk_plugin.evaluation.extractors import choose_extractor, load_extractor
from topk_plugin.evaluation.features import (
    count_images,
    extract_features,
    image_batch,
    reference_features,
)
from topk_plugin.evaluation.labelled_images import LabelledImages

RESULT_KEYS = {
    "inception": {
        "fid": ("fid",),
        "kid": ("kid",),
        "is": ("inception_score",),
        "prdc": ("precision", "recall"),
    },
    "builtin": {
        "fid": ("frechet_distance",),
        "kid": ("kernel_distance",),
        "is": ("classifier_score",),
        "prdc": ("precision", "recall"),
    },
}
"""Extractor -> metric -> the keys of its values."""

SCORE_SPLITS = 10
KERNEL_SUBSETS = 100
NEIGHBOURS = 3
# Below these a formula is undefined: a covariance needs two samples, a kernel subset (half of the
# samples) too, the score one sample a split, the k-th neighbour k samples beside the point itself.
FEWEST_SAMPLES = {"fid": 2, "kid": 4, "is": SCORE_SPLITS, "prdc": NEIGHBOURS + 1}
MANIFOLD_SAMPLES = 10_000
"""Precision and recall take at most so many images of either set: the cost grows with the square
(50,000 take a minute on two cores, at every evaluation)."""
# Rows of a block of the distance matrix, so that a block takes 40 MB at most.
DISTANCE_ROWS = 1024


class Evaluator:
    """Measures generated images against one reference set, with one extractor.

    Everything slow happens here, at construction: choosing and loading (or training) the extractor
    and the features of the reference set, both cached on disk. No global random generator is read
    or moved, here or in ``evaluate``.

    Args:
        reference: the real images.
        metrics: of "fid", "kid", "is", "prdc" (StudioGAN's names; of prdc precision and recall).
        extractor: "auto", "inception" or "builtin".
        inception_weights: a file with torch-fidelity's Inception weights.
        device: where the extractor runs.
        seed: for the subsets of the kernel distance and the splits of the score.
        batch_size: images at once through the extractor.
        extractor_data: what the built-in extractor is trained on, when ``reference`` is not the
            training split itself.

    Raises:
        UserError: unknown metric or extractor, too few images, weights that can't be had or read,
            or the classifier score of a data set that has one class.
    """

    def __init__(
        self,
        reference: LabelledImages,
        *,
        metrics: Sequence[str],
        extractor: str = "auto",
        inception_weights: Path | None = None,
        device: torch.device,
        seed: int,
        batch_size: int = 64,
        extractor_data: LabelledImages | None = None,
    ) -> None:
        _check_metrics(metrics)
        self.metrics = tuple(dict.fromkeys(metrics))
        check_count(self.metrics, len(reference.images), f"the reference set {reference.name}")
        self.device = device
        self.seed = seed
        self.batch_size = batch_size
        self._reference_name = reference.name
        self._reference_size = len(reference.images)
        self._reference_fingerprint = reference.fingerprint()
        self._image_shape = reference.images.shape[1:]

        choice = choose_extractor(
            extractor, data_name=reference.name, inception_weights=inception_weights
        )
        self._reason = choice.reason
        training_data = reference if extractor_data is None else extractor_data
        self._extractor = load_extractor(choice, data=training_data, device=device)
        if "is" in self.metrics and self._extractor.facts.get("task") == "rotations":
            raise UserError(
                f"{training_data.name} has one class, so the built-in extractor has no classes to "
                'score; leave out the metric "is" or give Inception weights'
            )
        module = self._extractor.module
        self._feature_layer = module.get_default_feature_layer_for_metric("fid")
        self._logit_layer = module.get_default_feature_layer_for_metric("isc")
        self._reference: Tensor | None = None
        if set(self.metrics) != {"is"}:
            self._reference = reference_features(
                self._extractor,
                self._feature_layer,
                reference,
                device=device,
                batch_size=batch_size,
            )

    @property
    def keys(self) -> tuple[str, ...]:
        """The keys of ``evaluate``'s result."""
        table = RESULT_KEYS[self._extractor.name]
        return tuple(key for metric in self.metrics for key in table[metric])

    def describe(self, samples: int | None = None) -> dict[str, Any]:
        """What the numbers were measured with, as plain data for result.json.

        Args:
            samples: how many generated images are measured; adds that number and the size of the
                kernel distance's subsets.
        """
        described: dict[str, Any] = {
            "extractor": self._extractor.name,
            "reason": self._reason,
            "weights_sha256": self._extractor.weights_sha256,
            **self._extractor.facts,
            "reference": self._reference_name,
            "reference_size": self._reference_size,
            "reference_fingerprint": self._reference_fingerprint,
            "seed": self.seed,
        }
        if "prdc" in self.metrics:
            described["precision_recall_samples_at_most"] = MANIFOLD_SAMPLES
        if self._reference is not None:
            described["feature_dims"] = self._reference.shape[1]
        if samples is not None:
            described["samples"] = samples
            if "kid" in self.metrics:
                described["kernel_subsets"] = KERNEL_SUBSETS
                described["kernel_subset_size"] = self._kernel_subset_size(samples)
        return described

    def evaluate(self, images: Tensor | Dataset[Any]) -> dict[str, float]:
        """The values of ``keys`` for generated images.

        Args:
            images: uint8 [N, 3, S, S], or a sized data set of such images (or of tuples that begin
                with one); S as in the reference set.

        Raises:
            UserError: too few images for a metric.
            TypeError: the images are not uint8.
            ValueError: the images have another shape than the reference's.
        """
        return self.values(self.layers(images))

    def layers(self, images: Tensor | Dataset[Any]) -> dict[str, Tensor]:
        """The extractor's layers for generated images: name -> float32 [N, D] on the CPU.

        Args:
            images: see :meth:`evaluate`, which raises the same.
        """
        n_images = count_images(images)
        check_count(self.metrics, n_images, "the generated set")
        first = image_batch(images, 0, 1)
        if first.dtype != torch.uint8:
            raise TypeError(f"images must be uint8, got {first.dtype}")
        if first.shape[1:] != self._image_shape:
            raise ValueError(
                f"images must be {list(self._image_shape)} each, as the reference's, "
                f"got {list(first.shape[1:])}"
            )
        return extract_features(
            self._extractor,
            images,
            device=self.device,
            batch_size=self.batch_size,
            what="generated images",
        )

    def values(self, layers: dict[str, Tensor]) -> dict[str, float]:
        """The values of ``keys`` for what :meth:`layers` gave, of this or an equal extractor."""
        features, logits = layers[self._feature_layer], layers[self._logit_layer]
        table = RESULT_KEYS[self._extractor.name]
        return {
            key: value
            for metric in self.metrics
            for key, value in zip(
                table[metric], self._values(metric, features, logits), strict=True
            )
        }

    def _values(self, metric: str, features: Tensor, logits: Tensor) -> tuple[float, ...]:
        # torch-fidelity seeds NumPy generators of its own, which take 32 bits.
        rng_seed = self.seed % 2**32
        if metric == "is":
            score = isc_features_to_metric(logits, splits=SCORE_SPLITS, rng_seed=rng_seed)
            return (score[KEY_METRIC_ISC_MEAN],)
        reference = self._reference
        assert reference is not None, "every metric but the score has reference features"
        if metric == "fid":
            generated = fid_features_to_statistics(features.double())
            distance = fid_statistics_to_metric(
                generated, self._reference_statistics, verbose=False
            )
            return (distance[KEY_METRIC_FID],)
        if metric == "kid":
            kernel = kid_features_to_metric(
                features,
                reference,
                kid_subsets=KERNEL_SUBSETS,
                kid_subset_size=self._kernel_subset_size(len(features)),
                rng_seed=rng_seed,
                verbose=False,
            )
            return (kernel[KEY_METRIC_KID_MEAN],)
        manifold = prc_features_to_metric(
            _random_subset(features, rng_seed),
            _random_subset(reference, rng_seed),
            prc_neighborhood=NEIGHBOURS,
            prc_batch_size=DISTANCE_ROWS,
            save_cpu_ram=True,
            verbose=False,
        )
        return manifold[KEY_METRIC_PRECISION], manifold[KEY_METRIC_RECALL]

    @cached_property
    def _reference_statistics(self) -> dict[str, Any]:
        """Mean and covariance of the reference's features; float64, since torch-fidelity sums in
        the features' own precision."""
        assert self._reference is not None, "only the Frechet distance asks for them"
        return fid_features_to_statistics(self._reference.double())

    def _kernel_subset_size(self, n_samples: int) -> int:
        """1,000 as usual, less where a subset would be more than half of a set."""
        return min(1000, n_samples // 2, self._reference_size // 2)


def check_count(metrics: Sequence[str], n_images: int, what: str) -> None:
    """Refuse too small a set; the program calls it before a run begins.

    Args:
        metrics: known names.
        n_images: size of the set.
        what: the set, for the sentence.

    Raises:
        UserError: too few images for a metric.
    """
    for metric in metrics:
        if n_images < FEWEST_SAMPLES[metric]:
            raise UserError(
                f'The metric "{metric}" needs at least {FEWEST_SAMPLES[metric]} images, '
                f"{what} has {n_images}; give more images or leave out the metric"
            )


def _random_subset(features: Tensor, seed: int) -> Tensor:
    """At most ``MANIFOLD_SAMPLES`` rows, drawn at random: images often come sorted by class."""
    if len(features) <= MANIFOLD_SAMPLES:
        return features
    generator = torch.Generator().manual_seed(seed)
    return features[torch.randperm(len(features), generator=generator)[:MANIFOLD_SAMPLES]]


def _check_metrics(metrics: Sequence[str]) -> None:
    if not metrics:
        raise ValueError("metrics must name at least one metric, got none")
    for metric in metrics:
        if metric not in FEWEST_SAMPLES:
            raise UserError(
                f"Metric {metric!r} is unknown; take some of {', '.join(FEWEST_SAMPLES)}, or none"
            )
