"""Measures generated images against a reference set.

All metrics of a run stand on one extractor, and values measured with others than Inception never
carry the names of the Inception metrics: they are comparable with each other only.
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from topk_plugin.base.errors import UserError
from topk_plugin.evaluation.extractors import choose_extractor, load_extractor
from topk_plugin.evaluation.features import (
    check_finite,
    count_images,
    extract_features,
    image_batch,
    reference_features,
)
from topk_plugin.evaluation.labelled_images import LabelledImages
from topk_plugin.evaluation.metrics import METRICS, check_count, check_metrics
from topk_plugin.evaluation.metrics.record import Generated, Reference


class Evaluator:
    """Measures generated images against one reference set, with one extractor.

    Everything slow happens here, at construction: choosing and loading (or training) the extractor
    and the features of the reference set, both cached on disk. No global random generator is read
    or moved, here or in ``evaluate``.

    Args:
        reference: the real images.
        metrics: names in :data:`topk_plugin.evaluation.metrics.METRICS` (StudioGAN's names).
        extractor: of :data:`topk_plugin.evaluation.extractor_names.CHOICES`.
        inception_weights: a file with torch-fidelity's Inception weights.
        device: where the extractor runs.
        seed: for the subsets of the kernel distance and the splits of the score.
        batch_size: images at once through the extractor.
        extractor_data: what the built-in extractor is trained on, when ``reference`` is not the
            training split itself.
        unfit: extractors that the training was made with -> the method that did.

    Raises:
        UserError: unknown metric, unknown or unfit extractor, too few images, weights that can't be
            had or read, or the classifier score of a data set that has one class.
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
        unfit: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        check_metrics(metrics)
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
            extractor,
            data_name=reference.name,
            inception_weights=inception_weights,
            unfit=unfit,
        )
        self._reason = choice.reason
        training_data = reference if extractor_data is None else extractor_data
        self._extractor = load_extractor(choice, data=training_data, device=device)
        scored = [name for name in self.metrics if METRICS[name].needs_classes]
        if scored and self._extractor.facts.get("task") == "rotations":
            raise UserError(
                f"{training_data.name} has one class, so the built-in extractor has no classes to "
                f'score; leave out the metric "{scored[0]}" or give Inception weights'
            )
        module = self._extractor.module
        self._feature_layer = module.get_default_feature_layer_for_metric("fid")
        self._logit_layer = module.get_default_feature_layer_for_metric("isc")
        self.reference = Reference(torch.empty(0))
        if any(METRICS[name].needs_reference for name in self.metrics):
            self.reference = Reference(
                reference_features(
                    self._extractor,
                    self._feature_layer,
                    reference,
                    device=device,
                    batch_size=batch_size,
                )
            )

    @property
    def keys(self) -> tuple[str, ...]:
        """The keys of ``evaluate``'s result."""
        return tuple(
            key.name(self._extractor.name) for name in self.metrics for key in METRICS[name].keys
        )

    def describe(self, samples: int | None = None) -> dict[str, Any]:
        """What the numbers were measured with, as plain data for result.json.

        Args:
            samples: how many generated images are measured; adds that number and what follows
                from it.
        """
        described: dict[str, Any] = {
            "extractor": self._extractor.name,
            "reason": self._reason,
            "weights_sha256": self._extractor.weights_sha256,
            "extractor_fingerprint": self._extractor.fingerprint,
            **self._extractor.facts,
            "reference": self._reference_name,
            "reference_size": self._reference_size,
            "reference_fingerprint": self._reference_fingerprint,
            "seed": self.seed,
        }
        if len(self.reference.features):
            described["feature_dims"] = self.reference.features.shape[1]
        if samples is not None:
            described["samples"] = samples
        for name in self.metrics:
            described |= METRICS[name].conventions(samples, self._reference_size)
        return described

    def evaluate(self, images: Tensor | Dataset[Any]) -> dict[str, float]:
        """The values of ``keys`` for generated images.

        Args:
            images: uint8 [N, 3, S, S], or a sized data set of such images (or of tuples that begin
                with one); S as in the reference set.

        Raises:
            UserError: too few images for a metric, or features that are not finite.
            TypeError: the images are not uint8.
            ValueError: the images have another shape than the reference's.
        """
        return self.values(self.layers(images))

    def features(self, images: Tensor) -> Tensor:
        """What distances are measured in: float32 [N, D] on the CPU, of any number of images.

        Args:
            images: uint8 [N, 3, S, S].
        """
        layers = extract_features(
            self._extractor,
            images,
            device=self.device,
            batch_size=self.batch_size,
            what="generated images",
        )
        return layers[self._feature_layer]

    def layers(self, images: Tensor | Dataset[Any]) -> dict[str, Tensor]:
        """The extractor's layers for generated images: name -> float32 [N, D] on the CPU.

        Several processes call alike with the same images, and share the work.

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
            shared=True,
        )

    def values(self, layers: dict[str, Tensor]) -> dict[str, float]:
        """The values of ``keys`` for what :meth:`layers` gave, of this or an equal extractor.

        Raises:
            UserError: features or a value that are not finite.
        """
        generated = Generated(layers[self._feature_layer], layers[self._logit_layer])
        for layer in (generated.features, generated.logits):
            check_finite(layer, "the generated images")
        # torch-fidelity seeds NumPy generators of its own, which take 32 bits.
        rng_seed = self.seed % 2**32
        values: dict[str, float] = {}
        for name in self.metrics:
            metric = METRICS[name]
            found = metric.values(generated, self.reference, rng_seed)
            for key, value in zip(metric.keys, found, strict=True):
                if not math.isfinite(value):
                    raise UserError(
                        f'The metric "{name}" of the generated images is {value}, though their '
                        "features are finite: they are too large or too far apart for its "
                        f'formula; look at the images, and leave out "{name}" if they are right'
                    )
                values[key.name(self._extractor.name)] = value
        return values
