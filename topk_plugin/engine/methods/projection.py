"""Critics without a conditional loss: labels do not enter, or by projection."""

from typing import Any, Final

from torch import Tensor

from topk_plugin.engine.keys.key import Key, When
from topk_plugin.engine.keys.rules import OneOf
from topk_plugin.engine.methods.method import Method
from topk_plugin.engine.networks.layers import Layers
from topk_plugin.engine.networks.scoring import Head, Outputs

CONDITIONING: Final = Key(
    "MODEL",
    "d_cond_mtd",
    "W/O",
    OneOf((), studiogan=("MH", "MD", "SPD")),
    about="how labels enter the critic",
)


CLASS_LOGIT: Final = "class_logit"


class ProjectionHead(Head):
    """The score gets the product of features and class embedding (arXiv 1802.05637).

    The product alone is in the output "class_logit", [N].
    """

    def add_layers(self, critic: Any, features: int, layers: Layers) -> None:
        super().add_layers(critic, features, layers)
        critic.embedding = layers.embedding(self.settings.DATA.num_classes, features)

    def outputs(self, critic: Any, h: Tensor, labels: Tensor) -> Outputs:
        outputs = super().outputs(critic, h, labels)
        projected = (critic.embedding(labels) * h).sum(1)
        return outputs | {
            "adv_output": outputs["adv_output"] + projected,
            CLASS_LOGIT: projected,
        }


UNCONDITIONAL: Final = Method(
    "W/O", on=When("MODEL", "d_cond_mtd", ("W/O",)), keys=(CONDITIONING,), head=Head
)
PROJECTION: Final = Method(
    "PD", on=When("MODEL", "d_cond_mtd", ("PD",)), keys=(CONDITIONING,), head=ProjectionHead
)
