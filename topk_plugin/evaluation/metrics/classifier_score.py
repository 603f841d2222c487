"""Inception Score's formula (Salimans et al., arXiv 1606.03498), torch-fidelity's code.

exp of the mean divergence of an image's classes from those of all images, computed in ``SPLITS``
random parts of the images and averaged. Three conventions are about, and they do not give the same
number: the more images in a part, the higher the score, since a part's own images bend its mean.

- 10 parts, usually of 50,000 images: the paper's code, torch-fidelity, published tables, and here.
- 1 part: StudioGAN while it trains (``num_splits = 1`` in its worker.py).
- The images' order: random here and in torch-fidelity, as they come in older code, which makes
  parts of few classes where images come sorted by class.
"""

from typing import Any

from topk_plugin.evaluation.metrics.record import Generated, Key, Metric, Reference

SPLITS = 10


def _values(generated: Generated, reference: Reference, seed: int) -> tuple[float, ...]:
    from torch_fidelity.metric_isc import KEY_METRIC_ISC_MEAN, isc_features_to_metric

    score = isc_features_to_metric(generated.logits, splits=SPLITS, rng_seed=seed)
    return (score[KEY_METRIC_ISC_MEAN],)


def _conventions(samples: int | None, reference: int) -> dict[str, Any]:
    return {"score_splits": SPLITS}


CLASSIFIER_SCORE = Metric(
    name="is",
    measures="Inception Score's formula, in ten parts",
    keys=(
        Key(
            "inception_score",
            "classifier_score",
            "Inception Score",
            "classifier score (IS's formula)",
            higher_is_better=True,
        ),
    ),
    fewest=SPLITS,
    values=_values,
    conventions=_conventions,
    needs_reference=False,
    needs_classes=True,
)
