"""Relativistic losses: a fake is judged against real images (Jolicoeur-Martineau 2018,
1807.00734).

"relativistic" (RpGAN) compares the fake of a row with the real image of the row; with R1 and R2 it
is the loss of R3GAN (Huang et al. 2024, arXiv 2501.05441). "relativistic_average" (RaGAN) compares
with the mean logit of the other side.

In the generator's update the critic is called on real images too, in a call of its own, whose
output is a constant there. Top-k training ranks fakes by the critic's own output, not by the
difference to a real image. With RpGAN a dropped fake then plays no part. With RaGAN it still does:
its logit stays in the mean that the real images are compared with, though no gradient reaches it.
"""

from collections.abc import Callable, Iterator
from typing import Final

import torch.nn.functional as F
from torch import Tensor

from topk_plugin.base.errors import UserError
from topk_plugin.engine.keys.key import When
from topk_plugin.engine.keys.settings import Settings
from topk_plugin.engine.methods.adversarial import ADVERSARIAL_CHOICE
from topk_plugin.engine.methods.method import CriticStep, GeneratorStep, Method, Needs, Term
from topk_plugin.gate import ranks


def paired(winner: Tensor, loser: Tensor) -> Tensor:
    """Mean of softplus(loser - winner): the winner's logit shall be the higher one, row by row."""
    return F.softplus(loser - winner).mean()


def average(winner: Tensor, loser: Tensor) -> Tensor:
    """Both sides against the other's mean, over all processes: winners above it, losers below."""
    winner, loser = ranks.gather_rows(winner), ranks.gather_rows(loser)
    return F.softplus(loser.mean() - winner).mean() + F.softplus(loser - winner.mean()).mean()


class RelativisticLoss(Term):
    """The first term of both losses.

    Args:
        loss: logits [N] of the side that shall win and of the other side, to a scalar.
    """

    needs = Needs(real_in_generator_update=True)

    def __init__(self, loss: Callable[[Tensor, Tensor], Tensor]) -> None:
        self._loss = loss

    def critic_terms(self, step: CriticStep) -> Iterator[Tensor]:
        yield self._loss(step.real_logits, step.fake_logits)

    def generator_terms(self, step: GeneratorStep) -> Iterator[Tensor]:
        assert step.real is not None  # needed
        real: Tensor = step.look(step.real.images, step.real.labels)["adv_output"]
        yield self._loss(step.logits, real.detach())


def _check(settings: Settings) -> None:
    if settings.LOSS.apply_topk and settings.LOSS.topk_mode == "slice":
        raise UserError(
            f"LOSS.adv_loss {settings.LOSS.adv_loss!r} compares every fake with a real image, and "
            "LOSS.topk_mode 'slice' leaves fewer fakes than real images; use topk_mode 'gate'"
        )


def _method(name: str, loss: Callable[[Tensor, Tensor], Tensor]) -> Method:
    return Method(
        name,
        on=When("LOSS", "adv_loss", (name,)),
        term=lambda settings: RelativisticLoss(loss),
        keys=(ADVERSARIAL_CHOICE,),
        check=_check,
    )


RELATIVISTIC_LOSSES: Final = (
    _method("relativistic", paired),
    _method("relativistic_average", average),
)
