"""One-sided label smoothing (Salimans et al. 2016, arXiv 1606.03498, section 3.4)."""

from collections.abc import Iterator
from typing import Final

from torch import Tensor

from topk_plugin.base.errors import UserError
from topk_plugin.engine.keys.key import Key
from topk_plugin.engine.keys.rules import Number
from topk_plugin.engine.keys.settings import Settings
from topk_plugin.engine.methods.method import CriticStep, Method, Term


class LabelSmoothing(Term):
    """What the target ``real_label`` adds to the vanilla loss, whose target is 1.

    Cross-entropy with the target t is t softplus(-x) + (1 - t) softplus(x), and
    softplus(x) = x + softplus(-x), so that (1 - t) x is added.
    """

    def __init__(self, settings: Settings) -> None:
        self.real_label: float = settings.LOSS.real_label

    def critic_terms(self, step: CriticStep) -> Iterator[Tensor]:
        yield (1 - self.real_label) * step.real_logits.mean()


def _check(settings: Settings) -> None:
    loss = settings.LOSS
    if loss.adv_loss != "vanilla":
        raise UserError(
            f"LOSS.real_label is {loss.real_label:g}, a target of the vanilla loss, but "
            f"LOSS.adv_loss is {loss.adv_loss!r}; use 'vanilla', or leave real_label out"
        )


LABEL_SMOOTHING: Final = Method(
    "label smoothing",
    on=lambda settings: settings.LOSS.real_label != 1,
    term=LabelSmoothing,
    keys=(
        Key(
            "LOSS",
            "real_label",
            1.0,
            Number(above=0.0, at_most=1.0),
            ours=True,
            about="target of real images in the vanilla loss",
        ),
    ),
    check=_check,
)
