"""Top-k training of GANs (Sinha et al., NeurIPS 2020, arXiv 2002.06224) for PyTorch.

In the generator's update the gradient of every generated sample that the critic does not score
among the best k is zeroed; k is annealed from the batch size down to a floor.
"""

from topk_plugin.gate import gradient_gate
from topk_plugin.plugin import AttachHandle, NoEffectWarning, TopK
from topk_plugin.schedule import KSchedule
from topk_plugin.selection import keep_mask
from topk_plugin.statistics import TopKStatistics
from topk_plugin.version import __version__

__all__ = [
    "AttachHandle",
    "KSchedule",
    "NoEffectWarning",
    "TopK",
    "TopKStatistics",
    "__version__",
    "gradient_gate",
    "keep_mask",
]
