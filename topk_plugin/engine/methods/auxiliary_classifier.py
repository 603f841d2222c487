"""The auxiliary classifier (AC) of ACGAN (Odena et al. 2017, arXiv 1610.09585)."""

from typing import Any, ClassVar, Final

import torch
import torch.nn.functional as F
from torch import Tensor

from topk_plugin.engine.keys.key import When
from topk_plugin.engine.methods.conditional_loss import NORMALISED, WEIGHT, ConditionalLoss
from topk_plugin.engine.methods.method import Method
from topk_plugin.engine.methods.projection import CONDITIONING
from topk_plugin.engine.networks.layers import Layers
from topk_plugin.engine.networks.scoring import Head, Outputs


class ClassifyingHead(Head):
    """Adds "cls_output", logits [N, num_classes].

    With MODEL.normalize_d_embed the features are scaled to unit length. (StudioGAN means to scale
    the classifier's rows as well, but drops the result.)
    """

    compared: ClassVar[tuple[str, ...]] = ("adv_output", "cls_output")

    def add_layers(self, critic: Any, features: int, layers: Layers) -> None:
        super().add_layers(critic, features, layers)
        critic.linear2 = layers.linear(features, self.settings.DATA.num_classes, bias=False)

    def outputs(self, critic: Any, h: Tensor, labels: Tensor) -> Outputs:
        outputs = super().outputs(critic, h, labels)
        if self.settings.MODEL.normalize_d_embed:
            outputs["h"] = F.normalize(h, dim=1)
        outputs["cls_output"] = critic.linear2(outputs["h"])
        return outputs


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


AUXILIARY_CLASSIFIER: Final = Method(
    "AC",
    on=When("MODEL", "d_cond_mtd", ("AC",)),
    term=lambda settings: ConditionalLoss(
        settings, lambda out: classification_loss(out["cls_output"], out["label"])
    ),
    keys=(CONDITIONING, WEIGHT, NORMALISED),
    head=ClassifyingHead,
)
