"""The last layers of a critic: from features to a score and what goes with labels."""

from collections.abc import Callable
from typing import Any, ClassVar

from torch import Tensor, nn

from topk_plugin.engine.keys.settings import Settings
from topk_plugin.engine.networks.layers import Layers

Outputs = dict[str, Any]
"""What a critic returns; see :meth:`Head.outputs`."""


class Head:
    """The layer that scores, without labels. Heads of conditional critics add to it.

    The layers become attributes of the critic itself and not of a module of their own, because
    StudioGAN's state_dict names them so.

    Args:
        settings: of the training.

    Attributes:
        compared: the outputs that consistency terms compare.
    """

    compared: ClassVar[tuple[str, ...]] = ("adv_output",)

    def __init__(self, settings: Settings) -> None:
        self.settings = settings

    def add_layers(self, critic: Any, features: int, layers: Layers) -> None:
        """Make the layers behind ``features`` features; called when all others are made."""
        critic.linear1 = layers.linear(features, 1)

    def outputs(self, critic: Any, h: Tensor, labels: Tensor) -> Outputs:
        """The outputs for features ``h`` [N, features] and ``labels`` int64 [N].

        Returns:
            "adv_output" [N] (logits, higher is more real), "h" [N, features], "label" [N] (the
            labels given), and what the head adds.
        """
        return {"h": h, "adv_output": critic.linear1(h).squeeze(1), "label": labels}

    def with_innermost(self, change: "Callable[[Head], Head]") -> "Head":
        """This head, in which ``change`` was made to the one that scores, inside of all others."""
        return change(self)


class WrappingHead(Head):
    """A head around another one, which sees other features or whose outputs are added to.

    Args:
        head: the other one.
    """

    def __init__(self, head: Head) -> None:
        super().__init__(head.settings)
        self.head = head
        self.compared = head.compared  # type: ignore[misc]  # the wrapped head's

    def add_layers(self, critic: Any, features: int, layers: Layers) -> None:
        self.head.add_layers(critic, features, layers)

    def with_innermost(self, change: "Callable[[Head], Head]") -> Head:
        self.head = self.head.with_innermost(change)
        return self


class ScoringNetwork(nn.Module):
    """A critic that ends in a :class:`Head`."""

    def __init__(self, head: Head) -> None:
        super().__init__()
        self.head = head

    def add_scoring_layers(self, features: int, layers: Layers) -> None:
        """Make the head's layers; called when all others are made."""
        self.head.add_layers(self, features, layers)

    def score(self, h: Tensor, labels: Tensor) -> Outputs:
        """The outputs for features ``h`` [N, features] and ``labels`` int64 [N]."""
        return self.head.outputs(self, h, labels)
