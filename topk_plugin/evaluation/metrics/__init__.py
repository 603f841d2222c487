"""Every metric by name. The rest of the package reads names, directions and limits from here."""

from collections.abc import Sequence

from topk_plugin.base.errors import UserError
from topk_plugin.evaluation.extractor_names import NETWORKS
from topk_plugin.evaluation.metrics.classifier_score import CLASSIFIER_SCORE
from topk_plugin.evaluation.metrics.frechet import FRECHET
from topk_plugin.evaluation.metrics.frechet_infinity import FRECHET_INFINITY
from topk_plugin.evaluation.metrics.kernel import KERNEL
from topk_plugin.evaluation.metrics.manifold import MANIFOLD
from topk_plugin.evaluation.metrics.record import Key

METRICS = {
    metric.name: metric
    for metric in (FRECHET, FRECHET_INFINITY, KERNEL, CLASSIFIER_SCORE, MANIFOLD)
}


def metric_keys() -> dict[str, tuple[Key, str]]:
    """Every name that a value can have in result.json: the key, and what tables call it."""
    return {
        key.name(extractor): (key, key.shown(extractor))
        for metric in METRICS.values()
        for key in metric.keys
        for extractor in NETWORKS
    }


def higher_is_better(name: str) -> bool:
    """The direction of a value in result.json.

    Raises:
        KeyError: no metric has a value of this name.
    """
    return metric_keys()[name][0].higher_is_better


def check_metrics(names: Sequence[str]) -> None:
    """Refuse what is no metric.

    Raises:
        ValueError: no name at all.
        UserError: an unknown name.
    """
    if not names:
        raise ValueError("metrics must name at least one metric, got none")
    for name in names:
        if name not in METRICS:
            raise UserError(
                f"Metric {name!r} is unknown; take some of {', '.join(METRICS)}, or none"
            )


def check_count(names: Sequence[str], n_images: int, what: str) -> None:
    """Refuse too small a set; the program calls it before a run begins.

    Args:
        names: known metrics.
        n_images: size of the set.
        what: the set, for the sentence.

    Raises:
        UserError: too few images for a metric.
    """
    for name in names:
        fewest = METRICS[name].fewest
        if n_images < fewest:
            raise UserError(
                f'The metric "{name}" needs at least {fewest} images, {what} has {n_images}; '
                "give more images or leave out the metric (-metrics none measures nothing)"
            )
