"""What all conditional losses share: a weight, and a term of both losses."""

from collections.abc import Callable, Iterator
from typing import Final

from torch import Tensor

from topk_plugin.engine.keys.key import Key
from topk_plugin.engine.keys.rules import Flag, Number, Whole
from topk_plugin.engine.keys.settings import Settings
from topk_plugin.engine.methods.method import CriticStep, GeneratorStep, Term
from topk_plugin.engine.networks.scoring import Outputs

WEIGHT: Final = Key(
    "LOSS", "cond_lambda", None, Number(at_least=0.0), needed=True, about="weight of the loss"
)
NORMALISED: Final = Key(
    "MODEL", "normalize_d_embed", False, Flag(), about="embeddings of unit length"
)
EMBEDDING: Final = Key(
    "MODEL", "d_embed_dim", None, Whole(1), needed=True, about="length of the embedding"
)
TEMPERATURE: Final = Key("LOSS", "temperature", None, Number(above=0.0), needed=True)


class ConditionalLoss(Term):
    """``loss`` of the critic's outputs, weighed, in the critic's and the generator's loss.

    Args:
        settings: LOSS.cond_lambda is the weight.
        loss: outputs to a scalar.
    """

    def __init__(self, settings: Settings, loss: Callable[[Outputs], Tensor]) -> None:
        self.weight: float = settings.LOSS.cond_lambda
        self.loss = loss

    def critic_terms(self, step: CriticStep) -> Iterator[Tensor]:
        step.logged["loss/conditional"] = self.loss(step.real_out)
        yield self.weight * step.logged["loss/conditional"]

    def generator_terms(self, step: GeneratorStep) -> Iterator[Tensor]:
        yield self.weight * self.loss(step.out)
