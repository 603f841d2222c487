"""Selective data matching, SFL (Kong et al. 2021, "Selective focusing learning in conditional
GANs").

A projection critic's logit is u(h) + c(h, y): how real, and how much of the class. For the samples
of a batch whose c is best, both networks train on c alone, for the others on the sum; real and
generated images are chosen apart. The chosen share of the batch grows with the training::

    share(e) = min(1 - gamma^e, most),   gamma = (1 - most)^(1 / whole training in e)

where e is the number of generator updates over the images' number of batches. The authors' scripts
have ``most`` 0.5. Nothing is permuted: the logits of the chosen rows are replaced in place. Top-k
training ranks by the critic's own output, u + c, before the replacement.
"""

from typing import Any, Final

import torch
from torch import Tensor

from topk_plugin.base.errors import UserError
from topk_plugin.engine.keys.key import Key, When, switch
from topk_plugin.engine.keys.rules import Number
from topk_plugin.engine.keys.settings import Settings
from topk_plugin.engine.methods.method import Gan, Method, Term
from topk_plugin.engine.methods.projection import CLASS_LOGIT
from topk_plugin.engine.networks.scoring import Outputs
from topk_plugin.gate.policies import keep_mask


def focused(logits: Tensor, class_logits: Tensor, count: int) -> Tensor:
    """``logits`` with the ``count`` rows of the highest class logits replaced by those.

    Args:
        logits: u + c, [N].
        class_logits: c, [N].
        count: 0 to N. Which rows they are carries no gradient.
    """
    if count == 0:
        return logits
    return torch.where(keep_mask(class_logits.detach(), count), class_logits, logits)


class SelectiveMatching(Term):
    """Other logits in both adversarial losses."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._most: float = settings.LOSS.sfl_share

    def setup(self, gan: Gan) -> None:
        self._progress = gan.progress
        optimization = self._settings.OPTIMIZATION
        self._updates_per_e = max(1, len(gan.images) // optimization.batch_size)
        updates = optimization.total_steps * optimization.g_updates_per_step
        self._log_gamma = torch.log1p(torch.tensor(-self._most)).item() / -(
            -updates // self._updates_per_e
        )

    @property
    def share(self) -> float:
        """The share of a batch that is chosen now."""
        e = self._progress.steps / self._updates_per_e
        return min(-torch.expm1(torch.tensor(e * self._log_gamma)).item(), self._most)

    def critic_logits(self, logits: Any, out: Outputs) -> Tensor:
        return focused(logits, out[CLASS_LOGIT], int(len(logits) * self.share))

    def generator_logits(self, logits: Any, out: Outputs) -> Tensor:
        return focused(logits, out[CLASS_LOGIT], int(len(logits) * self.share))

    def scalars(self) -> dict[str, Tensor]:
        return {"sfl/share": torch.tensor(self.share)}


def _check(settings: Settings) -> None:
    loss = settings.LOSS
    if settings.MODEL.d_cond_mtd != "PD":
        raise UserError(
            "LOSS.apply_sfl needs the class's part of the score, which only MODEL.d_cond_mtd 'PD' "
            f"has, and d_cond_mtd is {settings.MODEL.d_cond_mtd!r}; use 'PD', or set apply_sfl to "
            "False"
        )
    if loss.apply_san:
        raise UserError(
            "LOSS.apply_sfl needs the score and the class's part of it apart, and LOSS.apply_san "
            "merges them in one direction a class; use one of the two"
        )
    if loss.apply_topk and loss.topk_mode == "slice":
        raise UserError(
            "LOSS.apply_sfl replaces scores of the whole batch, and LOSS.topk_mode 'slice' leaves "
            "a part of it; use topk_mode 'gate'"
        )


SELECTIVE_MATCHING: Final = Method(
    "selective matching",
    on=When("LOSS", "apply_sfl"),
    term=SelectiveMatching,
    keys=(
        switch("LOSS", "apply_sfl", ours=True),
        Key(
            "LOSS",
            "sfl_share",
            0.5,
            Number(above=0.0, below=1.0),
            ours=True,
            about="of a batch, at the end of the training",
        ),
    ),
    check=_check,
)
