"""Semi-supervised learning with a K+1-class critic (Salimans et al. 2016, arXiv 1606.03498,
section 5): a classifier of K classes that learns from few labels and many images without.

The critic has K logits z, and the class "generated" has the logit 0, so that::

    p(real) = Z / (Z + 1),   Z = sum over k of exp(z_k)

The critic's score, which the adversarial loss and top-k's ranking see, is log Z. The classes are
learnt from ``labels_per_class`` labelled images of each, in batches of their own; of all other
images only that they are real. The authors' code weighs cross-entropy with 1 and the two halves of
the adversarial loss with 1/2 each, which is LOSS.cond_lambda 2 here, up to a factor of the whole
loss that Adam does not see. The generator's loss knows no classes; the authors match features
(LOSS.apply_fm here, added to the adversarial loss and not in its place) where the classifier is the
aim.

This project's: which images are labelled is drawn from the run's seed; labelled images are not
augmented; accuracy is that of the critic's weights as they are (the authors average them).
"""

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, Final

import torch
from torch import Tensor

from topk_plugin.base.errors import UserError
from topk_plugin.base.seeds import derive_seed
from topk_plugin.engine.keys.key import Key, When
from topk_plugin.engine.keys.rules import Whole
from topk_plugin.engine.keys.settings import Settings
from topk_plugin.engine.methods.auxiliary_classifier import classification_loss
from topk_plugin.engine.methods.conditional_loss import WEIGHT
from topk_plugin.engine.methods.method import CriticStep, Gan, Method, Term
from topk_plugin.engine.methods.projection import CONDITIONING
from topk_plugin.engine.networks.layers import Layers
from topk_plugin.engine.networks.scoring import Head, Outputs


class SemiSupervisedHead(Head):
    """ "cls_output", logits [N, num_classes]; the score is their log-sum-exp."""

    compared: ClassVar[tuple[str, ...]] = ("adv_output", "cls_output")

    def add_layers(self, critic: Any, features: int, layers: Layers) -> None:
        critic.linear1 = layers.linear(features, self.settings.DATA.num_classes)

    def outputs(self, critic: Any, h: Tensor, labels: Tensor) -> Outputs:
        logits = critic.linear1(h)
        precise = logits.to(torch.promote_types(logits.dtype, torch.float32))
        return {
            "h": h,
            "adv_output": precise.logsumexp(1),
            "label": labels,
            "cls_output": logits,
        }


def labelled_images(labels: Tensor, per_class: int, seed: int) -> Tensor:
    """The images whose labels are given: ``per_class`` of each class, at random.

    Args:
        labels: int64 [N].
        per_class: how many.
        seed: of the choice.

    Returns:
        Their indices, int64, ascending.

    Raises:
        UserError: a class has fewer.
    """
    counts = torch.bincount(labels)
    few = [f"{label} ({n})" for label, n in enumerate(counts.tolist()) if 0 < n < per_class]
    if few:
        raise UserError(
            f"DATA.labels_per_class is {per_class}, but there are fewer images of class "
            f"{', '.join(few[:10])}; give at most {int(counts[counts > 0].min())}"
        )
    shuffled = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
    by_class = shuffled[labels[shuffled].sort(stable=True).indices]
    begins = counts.cumsum(0) - counts
    places = torch.arange(len(labels)) - begins[labels[by_class]]
    return by_class[places < per_class].sort().values


class SemiSupervised(Term):
    """Cross-entropy of labelled images, in the critic's loss."""

    def __init__(self, settings: Settings) -> None:
        self._weight: float = settings.LOSS.cond_lambda
        self._per_class: int = settings.DATA.labels_per_class

    def setup(self, gan: Gan) -> None:
        seed = derive_seed(gan.seed, "labelled images")
        chosen = labelled_images(gan.images.labels, self._per_class, seed)
        self._stream = gan.stream.beside(seed, gan.images.subset(chosen))

    def critic_terms(self, step: CriticStep) -> Iterator[Tensor]:
        (labelled,) = self._stream.next_step()
        out = step.criticise(labelled.images, labelled.labels)
        loss = classification_loss(out["cls_output"], labelled.labels)
        right = out["cls_output"].detach().argmax(1) == labelled.labels
        step.logged["loss/conditional"] = loss
        step.logged["accuracy/labelled"] = right.float().mean()
        yield self._weight * loss

    def state_dict(self) -> dict[str, Any]:
        return {"stream": self._stream.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any], device: torch.device) -> None:
        self._stream.load_state_dict(state["stream"])


def _check(settings: Settings) -> None:
    loss = settings.LOSS
    if loss.adv_loss not in ("vanilla", "logistic"):
        raise UserError(
            "MODEL.d_cond_mtd 'K+1' makes the score a logit of 'real' against 'generated', which "
            f"is the logistic loss, and LOSS.adv_loss is {loss.adv_loss!r}; use 'vanilla'"
        )


def _notes(settings: Settings) -> list[str]:
    notes = [
        f"the critic learns classes from {settings.DATA.labels_per_class} labelled images of each; "
        "`topk-plugin evaluate -ref test` says how many test images it classifies rightly"
    ]
    if settings.MODEL.g_cond_mtd != "W/O":
        notes.append(
            f"MODEL.g_cond_mtd {settings.MODEL.g_cond_mtd!r} gives the generator classes, and the "
            "'K+1' critic never asks whether an image is of its class; 'W/O' says what it does"
        )
    return notes


SEMI_SUPERVISED: Final = Method(
    "K+1",
    on=When("MODEL", "d_cond_mtd", ("K+1",)),
    term=SemiSupervised,
    keys=(
        CONDITIONING,
        WEIGHT,
        Key(
            "DATA",
            "labels_per_class",
            None,
            Whole(1),
            ours=True,
            needed=True,
            about="images of each class whose label is given",
        ),
    ),
    check=_check,
    head=SemiSupervisedHead,
    notes=_notes,
)
