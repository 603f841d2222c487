"""The auxiliary classifier's (AC) loss of ACGAN."""

import torch
import torch.nn.functional as F
from torch import Tensor


def classification_loss(cls_output: Tensor, label: Tensor) -> Tensor:
    """Cross-entropy of the critic's own classifier (Odena et al. 2017, arXiv 1610.09585).

    Args:
        cls_output: logits [N, classes], floating point; half precisions are raised to float32.
        label: int64 [N].

    Returns:
        The mean over the batch, a scalar.
    """
    precise = torch.promote_types(cls_output.dtype, torch.float32)
    return F.cross_entropy(cls_output.to(precise), label)
