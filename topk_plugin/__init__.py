"""Top-k training of GANs (Sinha et al., NeurIPS 2020, arXiv 2002.06224) for PyTorch.

In the generator's update the gradient of every generated sample that the critic does not score
among the best k is zeroed; k is annealed from the batch size down to a floor.
"""

from topk_plugin.base.run_log import RunLog
from topk_plugin.gate.attachment import Attachment
from topk_plugin.gate.batch_statistics import TopKStatistics
from topk_plugin.gate.gate_warnings import (
    CriticUpdateWarning,
    GateWarning,
    NoEffectWarning,
    ReplayWarning,
    SmallSelectionWarning,
    WrongSignWarning,
)
from topk_plugin.gate.gated_step import GatedStep
from topk_plugin.gate.gradient_gate import gradient_gate
from topk_plugin.gate.monitor import TopKMonitor
from topk_plugin.gate.policies import keep_mask
from topk_plugin.gate.progress import Progress
from topk_plugin.gate.schedule import KSchedule
from topk_plugin.gate.topk import TopK
from topk_plugin.version import __version__

__all__ = [
    "Attachment",
    "CriticUpdateWarning",
    "GateWarning",
    "GatedStep",
    "KSchedule",
    "NoEffectWarning",
    "Progress",
    "ReplayWarning",
    "RunLog",
    "SmallSelectionWarning",
    "TopK",
    "TopKMonitor",
    "TopKStatistics",
    "WrongSignWarning",
    "__version__",
    "gradient_gate",
    "keep_mask",
]
