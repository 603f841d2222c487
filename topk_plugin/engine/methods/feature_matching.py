"""Feature matching (Salimans et al. 2016, arXiv 1606.03498, section 3.1), as StudioGAN has it."""

from collections.abc import Iterator
from typing import Final

from torch import Tensor

from topk_plugin.engine.keys.key import Key, When, switch
from topk_plugin.engine.keys.rules import Number
from topk_plugin.engine.keys.settings import Settings
from topk_plugin.engine.methods.method import GeneratorStep, Method, Needs, Term
from topk_plugin.gate import ranks


def feature_matching_loss(real_features: Tensor, fake_features: Tensor) -> Tensor:
    """Mean absolute difference of the two batches' mean features, a scalar.

    The features are the critic's, in front of its last layers ("h"). The real ones are a constant
    to the gradient. (The paper squares the differences.) The means are over all processes.

    Args:
        real_features: [N, D].
        fake_features: [M, D].
    """
    fake, real = ranks.gather_rows(fake_features), ranks.gather_batch(real_features)
    return (fake.mean(0) - real.mean(0)).abs().mean()


class FeatureMatching(Term):
    """LOSS.fm_lambda times the difference of real and generated features."""

    needs = Needs(real_in_generator_update=True)

    def __init__(self, settings: Settings) -> None:
        self._weight: float = settings.LOSS.fm_lambda

    def generator_terms(self, step: GeneratorStep) -> Iterator[Tensor]:
        assert step.real is not None  # needed
        real_out = step.look(step.real.images, step.real.labels)
        yield self._weight * feature_matching_loss(real_out["h"], step.out["h"])


FEATURE_MATCHING: Final = Method(
    "feature matching",
    on=When("LOSS", "apply_fm"),
    term=FeatureMatching,
    keys=(
        switch("LOSS", "apply_fm"),
        Key("LOSS", "fm_lambda", None, Number(at_least=0.0), needed=True),
    ),
)
