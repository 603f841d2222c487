"""All methods, in the order in which they act: StudioGAN's order of terms.

A new method is a file and a line here; or, in a package of its own, an entry point of the group
``topk_plugin.methods`` that names a :class:`~topk_plugin.engine.methods.method.Method`.
"""

from collections.abc import Iterator
from functools import cache, reduce
from importlib.metadata import EntryPoint, entry_points
from typing import Final

from topk_plugin.base.errors import UserError
from topk_plugin.engine.keys.settings import Settings
from topk_plugin.engine.methods.adversarial import ADVERSARIAL_LOSSES
from topk_plugin.engine.methods.auxiliary_classifier import AUXILIARY_CLASSIFIER
from topk_plugin.engine.methods.consistency import (
    BALANCED_CONSISTENCY,
    CONSISTENCY,
    LATENT_CONSISTENCY,
)
from topk_plugin.engine.methods.contrastive import CONTRASTIVE
from topk_plugin.engine.methods.data_to_data import DATA_TO_DATA
from topk_plugin.engine.methods.differentiable_augmentation import DIFF_AUGMENT
from topk_plugin.engine.methods.ema import MOVING_AVERAGE
from topk_plugin.engine.methods.feature_matching import FEATURE_MATCHING
from topk_plugin.engine.methods.gradient_penalty import GRADIENT_PENALTY, R1, R2
from topk_plugin.engine.methods.historical_averaging import HISTORICAL_AVERAGING
from topk_plugin.engine.methods.instance_selection import INSTANCE_SELECTION
from topk_plugin.engine.methods.label_smoothing import LABEL_SMOOTHING
from topk_plugin.engine.methods.lecam import LECAM
from topk_plugin.engine.methods.limited_data import LIMITED_DATA
from topk_plugin.engine.methods.masking import MASKING
from topk_plugin.engine.methods.method import Method, Needs, Term
from topk_plugin.engine.methods.minibatch_discrimination import MINIBATCH_DISCRIMINATION
from topk_plugin.engine.methods.nice import NICE
from topk_plugin.engine.methods.projected_gan import PROJECTED_GAN
from topk_plugin.engine.methods.projection import PROJECTION, UNCONDITIONAL
from topk_plugin.engine.methods.relativistic import RELATIVISTIC_LOSSES
from topk_plugin.engine.methods.san import SAN
from topk_plugin.engine.methods.selective_matching import SELECTIVE_MATCHING
from topk_plugin.engine.methods.self_diagnosing import SELF_DIAGNOSING
from topk_plugin.engine.methods.semi_supervised import SEMI_SUPERVISED
from topk_plugin.engine.methods.topk import TOP_K
from topk_plugin.engine.methods.virtual_batch_norm import VIRTUAL_CRITIC, VIRTUAL_GENERATOR

ENTRY_POINTS: Final = "topk_plugin.methods"

BUILT_IN: Final[tuple[Method, ...]] = (
    TOP_K,
    PROJECTED_GAN,
    DIFF_AUGMENT,
    MASKING,
    SELECTIVE_MATCHING,
    *ADVERSARIAL_LOSSES,
    *RELATIVISTIC_LOSSES,
    LABEL_SMOOTHING,
    SAN,
    UNCONDITIONAL,
    PROJECTION,
    AUXILIARY_CLASSIFIER,
    CONTRASTIVE,
    DATA_TO_DATA,
    SEMI_SUPERVISED,
    CONSISTENCY,
    BALANCED_CONSISTENCY,
    FEATURE_MATCHING,
    LATENT_CONSISTENCY,
    GRADIENT_PENALTY,
    LECAM,
    R1,
    R2,
    HISTORICAL_AVERAGING,
    MINIBATCH_DISCRIMINATION,
    NICE,
    VIRTUAL_GENERATOR,
    VIRTUAL_CRITIC,
    LIMITED_DATA,
    INSTANCE_SELECTION,
    SELF_DIAGNOSING,
    MOVING_AVERAGE,
)

_registered: list[Method] = []


def register(method: Method) -> Method:
    """Add a method of your own, behind all others; returns it.

    Raises:
        ValueError: there is one of that name.
    """
    if any(method.name == other.name for other in all_methods()):
        raise ValueError(f"there is a method {method.name!r} already")
    _registered.append(method)
    return method


def unregister(method: Method) -> None:
    """Take a method that :func:`register` added away again."""
    _registered.remove(method)


def all_methods() -> tuple[Method, ...]:
    """The built-in methods, those of installed packages, and those of :func:`register`."""
    return (*BUILT_IN, *_installed(), *_registered)


@cache
def _installed() -> tuple[Method, ...]:
    found = []
    for entry in sorted(entry_points(group=ENTRY_POINTS), key=lambda entry: entry.name):
        try:
            method = entry.load()
        except Exception as error:  # another package's code: anything can go wrong in it
            raise UserError(
                f"the method {entry.name!r} of {_package(entry)} can't be imported ({error}); mend "
                "that package, or uninstall it"
            ) from error
        if not isinstance(method, Method):
            raise UserError(
                f"the entry point {entry.name!r} of {_package(entry)} leads to "
                f"{type(method).__name__}, not to a Method; mend that package, or uninstall it"
            )
        found.append(method)
    return tuple(found)


def _package(entry: EntryPoint) -> str:
    return entry.dist.name if entry.dist is not None else entry.value


def methods_on(settings: Settings) -> Iterator[Method]:
    """The methods that ``settings`` turn on."""
    return (method for method in all_methods() if method.on(settings))


def terms_of(settings: Settings) -> dict[str, Term]:
    """Names -> terms of the methods that ``settings`` turn on, in the order in which they act."""
    return {m.name: m.term(settings) for m in methods_on(settings) if m.term is not None}


def needs_of(settings: Settings) -> Needs:
    """What the methods that ``settings`` turn on need."""
    return reduce(Needs.__or__, (term.needs for term in terms_of(settings).values()), Needs())


def unfit_extractors(settings: Settings) -> dict[str, str]:
    """Feature extractors that can't judge such a training -> the method that it trains with."""
    return {name: m.name for m in methods_on(settings) for name in m.unfit_extractors}
