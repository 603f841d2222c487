"""What a run is measured by: image quality of both sets of weights, classes, and the selection."""

import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from topk_plugin.engine.critic_scores import critic_scores
from topk_plugin.engine.data.images import ImageSet
from topk_plugin.engine.latents import LatentSource
from topk_plugin.engine.run import EVALUATION_SEED
from topk_plugin.engine.sample_grid import generate
from topk_plugin.engine.trainer import Trainer
from topk_plugin.evaluation.evaluator import Evaluator
from topk_plugin.evaluation.metrics.frechet import frechet_distance
from topk_plugin.evaluation.ranking import score_distance_correlation

METRICS = ("fid", "kid", "prdc")
RANKED_SAMPLES = 1000
RANKED_REFERENCES = 10_000


class Measures(Evaluator):
    """An evaluator that measures more than the moving average's images.

    Beside the metrics of :class:`~topk_plugin.evaluation.evaluator.Evaluator` (against the training
    split): ``test_`` and the first metric, against the test split; ``raw_`` and a metric, of the
    raw weights on the same latents; ``class_share_kl``, the divergence in nats of the classes that
    the extractor sees in the images from equal shares; for conditional GANs ``label_agreement``,
    the share of images whose class the extractor sees as the one asked for, and
    ``class_distance/NAME``, the Frechet distance within a class; ``rank_correlation``, Spearman's,
    of the critic's score and the distance to the nearest real image, of the class asked for where
    there are classes, in the features' space (under 0: the critic prefers images near real ones).
    Classes are left out where the extractor
    is Inception, which has others.

    Args:
        trainer: the GAN that is measured.
        train: what it is trained on.
        test: other images of the same kind.
        extractor_data: what the built-in extractor is trained on.
        samples: generated images of a measurement.
        extractor: "builtin" or "inception".
        inception_weights: their file, or None.
    """

    def __init__(
        self,
        trainer: Trainer,
        train: ImageSet,
        test: ImageSet,
        *,
        extractor_data: ImageSet,
        samples: int,
        extractor: str,
        inception_weights: Path | None,
    ) -> None:
        given: dict[str, Any] = {
            "extractor": extractor,
            "inception_weights": inception_weights,
            "device": trainer.device,
            "seed": 0,
            "extractor_data": extractor_data,
        }
        super().__init__(train, metrics=METRICS, **given)
        self._trainer = trainer
        self._train = train
        self._test = Evaluator(test, metrics=METRICS[:1], **given)
        config = trainer.config
        source = LatentSource(config, seed=EVALUATION_SEED, device=trainer.device)
        # in this order evaluate_generator draws them too
        self._latents, self._labels = source.latents(samples), source.labels(samples)
        self._conditional = config.MODEL.g_cond_mtd != "W/O"
        self._names = train.class_names if extractor == "builtin" else ()

    @property
    def keys(self) -> tuple[str, ...]:
        """The keys of ``evaluate``'s result."""
        metrics = super().keys
        keys = [*metrics, f"test_{metrics[0]}", *(f"raw_{name}" for name in metrics)]
        if self._names:
            keys.append("class_share_kl")
            if self._conditional:
                keys += ["label_agreement", *(f"class_distance/{name}" for name in self._names)]
        return (*keys, "rank_correlation")

    def evaluate(self, images: Any) -> dict[str, float]:
        """The values of ``keys`` for the moving average's ``images``."""
        raw = generate(
            self._trainer.sampler(use_ema=False),
            self._latents,
            self._labels,
            batch_size=self._trainer.config.OPTIMIZATION.batch_size,
        )
        layers, raw_layers = self.layers(images), self.layers(raw)
        values = self.values(layers)
        values |= {f"test_{name}": value for name, value in self._test.values(layers).items()}
        values |= {f"raw_{name}": value for name, value in self.values(raw_layers).items()}
        if self._names:
            values |= self._of_classes(layers[self._feature_layer], layers[self._logit_layer])
        correlation = self._rank_correlation(raw, raw_layers[self._feature_layer])
        if math.isfinite(correlation):  # undefined where all scores are equal
            values["rank_correlation"] = correlation
        return values

    def _of_classes(self, features: Tensor, logits: Tensor) -> dict[str, float]:
        seen = logits.argmax(1)
        shares = torch.bincount(seen, minlength=len(self._names)).double() / len(seen)
        divergence = (shares * (shares * len(shares)).clamp_min(1e-300).log()).sum()
        values = {"class_share_kl": float(divergence)}
        if not self._conditional:
            return values
        labels = self._labels.cpu()
        values["label_agreement"] = float((seen == labels).double().mean())
        for index, name in enumerate(self._names):
            real = self.reference.features[self._train.labels == index]
            fake = features[labels == index]
            if len(real) > 1 and len(fake) > 1:  # a class that is held out has no images
                values[f"class_distance/{name}"] = frechet_distance(fake, real)
        return values

    def _rank_correlation(self, raw: Tensor, features: Tensor) -> float:
        fakes, labels = raw[:RANKED_SAMPLES], self._labels[:RANKED_SAMPLES]
        # every so-manieth image: files come sorted by class
        stride = max(1, len(self.reference.features) // RANKED_REFERENCES)
        return score_distance_correlation(
            critic_scores(self._trainer, fakes, labels),
            features[:RANKED_SAMPLES],
            self.reference.features[::stride],
            labels=labels.cpu() if self._conditional else None,
            real_labels=self._train.labels[::stride] if self._conditional else None,
        )
