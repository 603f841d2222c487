"""Historical averaging (Salimans et al. 2016, arXiv 1606.03498, section 3.3).

Each player pays for the distance of its parameters from their mean over the training so far::

    weight * sum over parameters of |theta - mean|^2

The paper gives no weight and the authors' code does not have the method: the weight is a setting
of this project. The mean of t values, held constant in the gradient, contains the present ones.
The sum over parameters grows with the network. The penalty never passes the critic, so that top-k
training leaves it alone.
"""

from collections.abc import Iterator, Mapping
from typing import Any, Final

import torch
from torch import Tensor, nn

from topk_plugin.engine.keys.key import Key, When, switch
from topk_plugin.engine.keys.rules import Number
from topk_plugin.engine.keys.settings import Settings
from topk_plugin.engine.methods.method import CriticStep, Gan, GeneratorStep, Method, Term


class RunningMean:
    """The mean of a network's parameters over the updates so far.

    Args:
        network: the parameters that require grad count.
    """

    def __init__(self, network: nn.Module) -> None:
        self._parameters: list[Tensor] = [p for p in network.parameters() if p.requires_grad]
        self.means = [p.detach().clone() for p in self._parameters]
        self.count = 1

    def penalty(self) -> Tensor:
        """Squared distance of the parameters from their means, a scalar."""
        differences = torch._foreach_sub(self._parameters, self.means)
        return torch.stack([d.square().sum() for d in differences]).sum()

    @torch.no_grad()
    def update(self) -> None:
        """Take in the parameters as they are."""
        self.count += 1
        torch._foreach_lerp_(self.means, self._parameters, 1 / self.count)


class HistoricalAveraging(Term):
    """A term of both losses."""

    def __init__(self, settings: Settings) -> None:
        self._weight: float = settings.LOSS.historical_lambda

    def setup(self, gan: Gan) -> None:
        self._of_critic = RunningMean(gan.critic)
        self._of_generator = RunningMean(gan.generator)

    def critic_terms(self, step: CriticStep) -> Iterator[Tensor]:
        yield self._weight * self._of_critic.penalty()

    def generator_terms(self, step: GeneratorStep) -> Iterator[Tensor]:
        yield self._weight * self._of_generator.penalty()

    def after_critic_update(self) -> None:
        self._of_critic.update()

    def after_generator_update(self, steps: int) -> None:
        self._of_generator.update()

    def state_dict(self) -> dict[str, Any]:
        sides = {"critic": self._of_critic, "generator": self._of_generator}
        return {name: {"means": m.means, "count": m.count} for name, m in sides.items()}

    def load_state_dict(self, state: Mapping[str, Any], device: torch.device) -> None:
        for mean, saved in (
            (self._of_critic, state["critic"]),
            (self._of_generator, state["generator"]),
        ):
            mean.count = int(saved["count"])
            for own, other in zip(mean.means, saved["means"], strict=True):
                own.copy_(other)


HISTORICAL_AVERAGING: Final = Method(
    "historical averaging",
    on=When("LOSS", "apply_historical"),
    term=HistoricalAveraging,
    keys=(
        switch("LOSS", "apply_historical", ours=True),
        Key("LOSS", "historical_lambda", None, Number(at_least=0.0), ours=True, needed=True),
    ),
)
