"""Selective data matching, SFL (Kong et al. 2021, "Selective focusing learning in conditional
GANs").

A projection critic's logit is u(h) + c(h, y): how real, and how much of the class. For the samples
of a batch whose c is best, both networks train on c alone, for the others on the sum; real and
generated images are chosen apart. The chosen share of the batch grows with the training::

    share(e) = min(1 - gamma^e, most),   gamma = (1 - most)^(1 / whole training in e)

where e is the number of generator updates over the images' number of batches. The authors' scripts
have ``most`` 0.5. Nothing is permuted: the logits of the chosen rows are replaced in place. Top-k
training ranks by the critic's own output, u + c, before the replacement.

SFL+ (``sfl_reals: density``) chooses real images once for all, by how dense their class is at them:
a batch's images of lowest rank within their class, by the density of instance selection (Gaussian,
EfficientNet-Lite0's features where the authors take Inception's). Generated images are chosen by c
as before. Ranks are counted in shares of a class here, so that classes of different size compare,
and go by the image's place in the set (the authors' code is right for class-sorted sets only).
"""

from collections.abc import Mapping
from typing import Any, Final

import torch
from torch import Tensor

from topk_plugin.base.errors import UserError
from topk_plugin.engine.data.stream import Batch
from topk_plugin.engine.keys.key import Key, When, switch
from topk_plugin.engine.keys.rules import Number, OneOf
from topk_plugin.engine.keys.settings import Settings
from topk_plugin.engine.methods.instance_selection import image_densities
from topk_plugin.engine.methods.method import Gan, Method, Term
from topk_plugin.engine.methods.projection import CLASS_LOGIT
from topk_plugin.engine.networks.scoring import Outputs
from topk_plugin.gate import ranks
from topk_plugin.gate.policies import keep_mask


def focused(logits: Tensor, class_logits: Tensor, count: int, best: Tensor | None = None) -> Tensor:
    """``logits`` with the class logits alone in the ``count`` rows where those are highest.

    The rows are chosen among those of all processes.

    Args:
        logits: u + c, [N].
        class_logits: c, [N].
        count: of all processes' rows. Which rows they are carries no gradient.
        best: what is highest in those rows instead, [N].
    """
    if count == 0:
        return logits
    chosen_by = ranks.gather_batch(class_logits if best is None else best)
    chosen = ranks.own_part(keep_mask(chosen_by, count))
    return torch.where(chosen, class_logits, logits)


def ranks_in_class(scores: Tensor, labels: Tensor) -> Tensor:
    """The share of an image's class that is denser than it; 0 for the densest.

    Args:
        scores: density of each image, [N]; of equal ones the earlier counts as denser.
        labels: int64 [N].

    Returns:
        float64 [N] in [0, 1).
    """
    by_score = scores.sort(descending=True, stable=True).indices
    order = by_score[labels[by_score].sort(stable=True).indices]  # class by class, densest first
    counts = torch.bincount(labels)
    begins = counts.cumsum(0) - counts
    places = torch.empty(len(scores), dtype=torch.float64)
    places[order] = (torch.arange(len(scores)) - begins[labels[order]]).double()
    return places / counts[labels]


class SelectiveMatching(Term):
    """Other logits in both adversarial losses."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._most: float = settings.LOSS.sfl_share
        self._ranks: Tensor | None = None

    def setup(self, gan: Gan) -> None:
        self._progress = gan.progress
        optimization = self._settings.OPTIMIZATION
        self._updates_per_e = max(1, len(gan.images) // optimization.batch_size)
        updates = optimization.total_steps * optimization.g_updates_per_step
        self._log_gamma = torch.log1p(torch.tensor(-self._most)).item() / -(
            -updates // self._updates_per_e
        )

        if self._settings.LOSS.sfl_reals == "density":
            scores, _ = image_densities(
                gan.images, "gaussian", wanted_by="LOSS.sfl_reals 'density' (SFL+)"
            )
            self._ranks = ranks_in_class(scores, gan.images.labels).float().to(gan.device)

    @property
    def share(self) -> float:
        """The share of a batch that is chosen now."""
        e = self._progress.steps / self._updates_per_e
        return min(-torch.expm1(torch.tensor(e * self._log_gamma)).item(), self._most)

    def critic_logits(self, logits: Any, out: Outputs) -> Tensor:
        return focused(logits, out[CLASS_LOGIT], self._count(logits))

    def real_logits(self, logits: Any, out: Outputs, real: Batch) -> Tensor:
        if self._ranks is None:
            return self.critic_logits(logits, out)
        count = self._count(logits)
        return focused(logits, out[CLASS_LOGIT], count, best=-self._ranks[real.indices])

    def generator_logits(self, logits: Any, out: Outputs) -> Tensor:
        return focused(logits, out[CLASS_LOGIT], self._count(logits))

    def _count(self, logits: Tensor) -> int:
        return int(len(logits) * ranks.world_size() * self.share)

    def scalars(self) -> dict[str, Tensor]:
        return {"sfl/share": torch.tensor(self.share)}

    def state_dict(self) -> dict[str, Any]:
        return {} if self._ranks is None else {"ranks": self._ranks}

    def load_state_dict(self, state: Mapping[str, Any], device: torch.device) -> None:
        """The ranks are taken over: features made anew elsewhere may give slightly others."""
        if self._ranks is None or "ranks" not in state:
            return
        if state["ranks"].shape != self._ranks.shape:
            raise UserError(
                f"SFL+ has ranks of {len(state['ranks']):,} training images and there are "
                f"{len(self._ranks):,} now; resume with the images that the run was started with"
            )
        self._ranks.copy_(state["ranks"])


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
        Key(
            "LOSS",
            "sfl_reals",
            "score",
            OneOf(("score", "density")),
            ours=True,
            about="real images are chosen by the class's part of the score, or by density (SFL+)",
        ),
    ),
    check=_check,
)
