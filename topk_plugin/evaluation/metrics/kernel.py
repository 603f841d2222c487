"""Kernel distance: KID's formula (Binkowski et al., arXiv 1801.01401), torch-fidelity's code."""

from typing import Any

from topk_plugin.evaluation.metrics.record import Generated, Key, Metric, Reference

SUBSETS = 100


def subset_size(samples: int, reference: int) -> int:
    """1,000 as usual, less where a subset would be more than half of a set."""
    return min(1000, samples // 2, reference // 2)


def _values(generated: Generated, reference: Reference, seed: int) -> tuple[float, ...]:
    from torch_fidelity.metric_kid import KEY_METRIC_KID_MEAN, kid_features_to_metric

    found = kid_features_to_metric(
        generated.features,
        reference.features,
        kid_subsets=SUBSETS,
        kid_subset_size=subset_size(len(generated.features), len(reference.features)),
        rng_seed=seed,
        verbose=False,
    )
    return (found[KEY_METRIC_KID_MEAN],)


def _conventions(samples: int | None, reference: int) -> dict[str, Any]:
    if samples is None:
        return {}
    return {
        "kernel_subsets": SUBSETS,
        "kernel_subset_size": subset_size(samples, reference),
    }


KERNEL = Metric(
    name="kid",
    measures="kernel distance, with Inception's features KID",
    keys=(
        Key(
            "kid",
            "kernel_distance",
            "KID",
            "kernel distance (KID's formula)",
            higher_is_better=False,
        ),
    ),
    fewest=4,  # two in a subset, which is half of a set
    values=_values,
    conventions=_conventions,
)
