"""Which curves TensorBoard shows together (its tab Custom Scalars), for any training loop."""

from typing import Any

LAYOUT: dict[str, dict[str, list[Any]]] = {
    "quality": {"metrics": ["Multiline", [r"metric/.*"]]},
    "training": {
        "losses": ["Multiline", [r"loss/.*"]],
        "images per second": ["Multiline", [r"speed/images_per_second"]],
    },
    "top-k": {
        "k": ["Multiline", [r"topk/k$"]],
        "kept fraction": ["Multiline", [r"topk/fraction_kept"]],
        "scores": ["Multiline", [r"topk/(score_kept_mean|threshold|score_dropped_mean)"]],
        "kept fraction of each class": ["Multiline", [r"topk/keep_rate_class/.*"]],
        "scores that are not finite": ["Multiline", [r"topk/nonfinite"]],
    },
    "diagnostics": {
        "the critic's ranking": [
            "Multiline",
            [r"diagnostics/(auc_real_vs_fake|rank_correlation)"],
        ],
        "spread of scores": ["Multiline", [r"diagnostics/score_spread.*"]],
        "gated against full gradient": ["Multiline", [r"diagnostics/gradient_.*"]],
    },
}
"""Category -> chart -> the tags in it, as regular expressions; charts without a tag stay empty."""
