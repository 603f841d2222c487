"""Top-k training (Sinha et al. 2020, arXiv 2002.06224): the gate, and StudioGAN's slice."""

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from typing import Any, Final, get_args

import torch
from torch import Tensor

from topk_plugin.base.errors import UserError
from topk_plugin.base.seeds import derive_seed
from topk_plugin.engine.keys.key import Key, When, switch
from topk_plugin.engine.keys.rules import Every, Number, OneOf, Registered, Share
from topk_plugin.engine.keys.settings import Settings
from topk_plugin.engine.methods.method import Gan, GeneratorPasses, Method, Term
from topk_plugin.engine.networks.scoring import Outputs
from topk_plugin.gate import ranks
from topk_plugin.gate.effect_check import FEWEST_SCORES
from topk_plugin.gate.gated_step import GatedStep
from topk_plugin.gate.policies import POLICIES
from topk_plugin.gate.progress import Progress
from topk_plugin.gate.schedule import KSchedule, progress_at
from topk_plugin.gate.topk import TopK
from topk_plugin.gate.topk_settings import Accumulation, Normalize, Scope

_FRACTION: Final = Number(above=0.0, at_most=1.0)

TOPK_KEYS: Final = (
    Key("LOSS", "topk_gamma", None, _FRACTION, needed=True, about="factor on k, an epoch"),
    Key("LOSS", "topk_nu", None, _FRACTION, needed=True, about="floor of k / batch size"),
    Key(
        "LOSS",
        "topk_mode",
        "gate",
        OneOf(("gate", "slice")),
        ours=True,
        about="the gradient gate, or StudioGAN's slice of the scores",
    ),
    Key(
        "LOSS",
        "topk_policy",
        "top",
        Registered(POLICIES.keys),
        ours=True,
        about="which samples are kept",
    ),
    Key(
        "LOSS",
        "topk_scope",
        None,
        OneOf(get_args(Scope)),
        ours=True,
        about="selection in each process, or over all; N/A: global where there are several",
    ),
    Key(
        "LOSS",
        "topk_normalize",
        "kept",
        OneOf(get_args(Normalize)),
        ours=True,
        about="kept samples weigh batch size / k, or 1",
    ),
    Key(
        "LOSS",
        "topk_accumulation",
        "micro",
        OneOf(get_args(Accumulation)),
        ours=True,
        about="selection in each accumulated batch (acml_steps), or over all of an update",
    ),
    Key(
        "LOSS",
        "topk_every",
        "epoch",
        Every(),
        ours=True,
        about="gamma acts once an epoch, or once in so many generator updates",
    ),
    Key(
        "LOSS",
        "topk_release_from",
        None,
        Share(),
        ours=True,
        about="from here on k rises back to the batch size",
    ),
    Key("LOSS", "topk_release_to", None, Share(), ours=True, about="here k is the batch size"),
)


def schedule_of(settings: Settings, steps_per_epoch: float) -> KSchedule | None:
    """The schedule of k, or None where top-k training is off.

    Args:
        settings: section LOSS; the length of the run, for shares of it.
        steps_per_epoch: training steps of a pass over the images, for shares of the run.
    """
    loss = settings.LOSS
    if not loss.apply_topk:
        return None
    schedule = KSchedule(loss.topk_gamma, loss.topk_nu, loss.topk_every)
    if loss.topk_release_from is None:
        return schedule
    optimization = settings.OPTIMIZATION
    if schedule.every == "epoch":
        whole = optimization.total_steps / steps_per_epoch
    else:
        whole = optimization.total_steps * optimization.g_updates_per_step / schedule.every
    return KSchedule(
        loss.topk_gamma,
        loss.topk_nu,
        loss.topk_every,
        release_from=progress_at(loss.topk_release_from, whole),
        release_to=progress_at(loss.topk_release_to, whole),
    )


def selection_size(settings: Settings) -> int:
    """Samples of all processes that are selected from at once, or in as many parts as processes."""
    optimization = settings.OPTIMIZATION
    over_all = settings.LOSS.apply_topk and settings.LOSS.topk_accumulation == "effective"
    return int(optimization.batch_size * (optimization.acml_steps if over_all else 1))


def scope_of(settings: Settings) -> Scope:
    """Over which processes a selection is made."""
    loss, several = settings.LOSS, ranks.world_size() > 1
    if loss.topk_mode == "slice":
        return "rank"
    scope: Scope = loss.topk_scope or ("global" if several else "rank")
    return scope


def notes_on_topk(settings: Settings) -> list[str]:
    """What is likely not meant, of the number of samples that a selection is made of."""
    loss, batches = settings.LOSS, settings.OPTIMIZATION.acml_steps
    if loss.topk_accumulation == "effective" and batches == 1:
        return [
            "LOSS.topk_accumulation 'effective' changes nothing with OPTIMIZATION.acml_steps 1: an "
            "update is one batch"
        ]
    size = selection_size(settings)
    if scope_of(settings) == "rank":
        size //= ranks.world_size()
    if 1 < size < FEWEST_SCORES:  # of 1 the plan says that nothing can be dropped
        remedy = "raise OPTIMIZATION.batch_size"
        if batches > 1 and loss.topk_accumulation == "micro" and loss.topk_mode == "gate":
            remedy += (
                ", or set LOSS.topk_accumulation to 'effective', which selects among all "
                f"{size * batches} of an update"
            )
        return [
            f"top-k selects among {size} scores only, so that k is coarse and their ranking mostly "
            f"noise; {remedy}"
        ]
    return []


def check_topk(settings: Settings) -> None:
    """Refuse settings of top-k training that do not go together.

    Raises:
        UserError: the first such combination found.
    """
    loss = settings.LOSS
    if (loss.topk_release_from is None) != (loss.topk_release_to is None):
        given, other = ("from", "to") if loss.topk_release_to is None else ("to", "from")
        raise UserError(
            f"LOSS.topk_release_{given} needs LOSS.topk_release_{other}; k is released between two "
            "points of the training"
        )
    if loss.topk_release_from is not None:
        points = loss.topk_release_from, loss.topk_release_to
        kinds = {type(point) for point in points}
        # of two shares, or of two numbers, it can be said now which comes first
        if len(kinds) == 1 and progress_at(points[1], 100) < progress_at(points[0], 100):
            raise UserError(
                f"LOSS.topk_release_from is {points[0]} and LOSS.topk_release_to {points[1]}; the "
                "first must not be the later one"
            )
    if POLICIES[loss.topk_policy].needs_labels and settings.MODEL.g_cond_mtd == "W/O":
        raise UserError(
            f"LOSS.topk_policy {loss.topk_policy!r} looks at classes, but with MODEL.g_cond_mtd "
            "'W/O' the generator is given none; use another policy, or g_cond_mtd 'cBN'"
        )
    if loss.topk_mode == "slice":
        for key, value, only in (
            ("topk_policy", loss.topk_policy, "top"),
            ("topk_scope", loss.topk_scope or "rank", "rank"),
            ("topk_normalize", loss.topk_normalize, "kept"),
            ("topk_accumulation", loss.topk_accumulation, "micro"),
        ):
            if value != only:
                raise UserError(
                    f"LOSS.{key} is {value!r}; with LOSS.topk_mode 'slice' (StudioGAN's own code) "
                    f"it can only be {only!r}, so use topk_mode 'gate'"
                )


class TopKTerm(Term):
    """What both modes share: a schedule on the training's progress.

    Attributes:
        schedule: of k.
        topk: the gate, whose statistics are those of the last selection; None for the slice.
    """

    schedule: KSchedule
    topk: TopK | None = None
    _progress: Progress

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        #: samples of all processes that are selected from at once, unless they are cut into parts
        self._size = selection_size(settings)
        #: into so many parts, of which the best are kept
        self._selections = ranks.world_size()

    def setup(self, gan: Gan) -> None:
        schedule = schedule_of(self._settings, gan.steps_per_epoch)
        assert schedule is not None  # the method is on
        self.schedule, self._progress = schedule, gan.progress

    @property
    def k(self) -> int:
        """Samples of these, over all processes, that the generator learns from now."""
        return self._selections * self._k_of_a_selection

    @property
    def _k_of_a_selection(self) -> int:
        progress = self._progress.of(self.schedule)
        return self.schedule.k(progress, self._size // self._selections)


class Gate(TopKTerm):
    """The gradient gate, in front of everything that the critic sees."""

    topk: TopK
    _step: GatedStep

    def setup(self, gan: Gan) -> None:
        super().setup(gan)
        loss = self._settings.LOSS
        scope = scope_of(self._settings)
        if scope == "global":
            self._selections = 1
        self.topk = TopK(
            self.schedule,
            policy=loss.topk_policy,
            scope=scope,
            normalize=loss.topk_normalize,
            accumulation=loss.topk_accumulation,
            seed=derive_seed(gan.seed, "random policy"),
            progress=gan.progress,
        )
        # the labels of a generator that is given none are noise: no keep rates of them
        conditional = self._settings.MODEL.g_cond_mtd != "W/O"
        self.topk.attach(gan.critic_input, score="adv_output", labels=1 if conditional else None)

    def around_generator_update(self) -> AbstractContextManager[Any]:
        self._step = self.topk.generator_step()
        return self._step

    def accumulate(self, passes: GeneratorPasses) -> Iterator[Tensor] | None:
        if self._settings.LOSS.topk_accumulation == "micro":
            return None
        return self._step.accumulate(
            lambda loss: loss(),
            passes.losses,
            networks=passes.networks,
            generators=passes.generators,
        )

    def after_generator_update(self, steps: int) -> None:
        self.topk.end_step()

    def end_epoch(self) -> None:
        self.topk.end_epoch()

    def state_dict(self) -> dict[str, Any]:
        return self.topk.state_dict()

    def load_state_dict(self, state: Mapping[str, Any], device: torch.device) -> None:
        self.topk.load_state_dict(state)


class Slice(TopKTerm):
    """StudioGAN's own: the k best scores go into the adversarial loss, and nothing else changes."""

    def generator_logits(self, logits: Any, out: Outputs) -> Tensor:
        return torch.topk(logits, self._k_of_a_selection).values


TOP_K: Final = Method(
    "top-k",
    on=When("LOSS", "apply_topk"),
    term=lambda settings: (Gate if settings.LOSS.topk_mode == "gate" else Slice)(settings),
    keys=(switch("LOSS", "apply_topk"), *TOPK_KEYS),
    check=check_topk,
    notes=notes_on_topk,
)


def topk_of(terms: Mapping[str, Term]) -> TopKTerm | None:
    """Top-k training among the methods of a training, or None where it is off."""
    term = terms.get(TOP_K.name)
    assert term is None or isinstance(term, TopKTerm)
    return term


def k_of(terms: Mapping[str, Term]) -> int | None:
    """Samples of a selection that the generator learns from now; None without top-k."""
    term = topk_of(terms)
    return None if term is None else term.k
