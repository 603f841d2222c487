"""What a metric is: one record, from which everything else about metrics is read."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from topk_plugin.evaluation.extractor_names import NETWORKS


@dataclass(frozen=True)
class Key:
    """One value that a metric gives.

    The field's names (FID, KID, IS) promise Inception's features, so a value measured with others
    has another name.

    Attributes:
        inception: its name with Inception's features.
        other: its name with other features; equal to ``inception`` where the field has one name
            for any features (precision).
        title: what tables call it, with Inception's features.
        other_title: what tables call it with other features.
        higher_is_better: the direction.
    """

    inception: str
    other: str
    title: str
    other_title: str
    higher_is_better: bool

    def name(self, extractor: str) -> str:
        """The key in result.json and TensorBoard, with the features of ``extractor``."""
        if extractor == "inception":
            return self.inception
        if extractor == "builtin" or self.inception == self.other:
            return self.other
        return f"{self.other}_{extractor}"

    def shown(self, extractor: str) -> str:
        """What tables call it, with the features of ``extractor``."""
        if extractor == "inception":
            return self.title
        if extractor == "builtin" or self.inception == self.other:
            return self.other_title
        return f"{self.other_title} ({NETWORKS[extractor]})"


@dataclass(frozen=True)
class Generated:
    """Generated images as an extractor sees them.

    Attributes:
        features: float32 [N, D] on the CPU.
        logits: float32 [N, C] on the CPU.
    """

    features: Tensor
    logits: Tensor


@dataclass(frozen=True)
class Reference:
    """The real images' features, float32 [M, D] on the CPU, and what metrics derived from them."""

    features: Tensor
    _derived: dict[str, Any] = field(default_factory=dict)

    def once(self, name: str, derive: Callable[[Tensor], Any]) -> Any:
        """``derive(features)``, computed at the first call with ``name``."""
        if name not in self._derived:
            self._derived[name] = derive(self.features)
        return self._derived[name]


@dataclass(frozen=True)
class Metric:
    """A metric: one file in this package, one entry in its ``METRICS``.

    Attributes:
        name: what ``-metrics`` takes.
        measures: what it is, in a few words, for the command's help.
        keys: the values that ``values`` gives, in this order.
        fewest: images of either set below which the formula is undefined.
        values: the generated images, the reference and a seed (0 <= seed < 2^32) -> the values of
            ``keys``.
        conventions: constants that a value depends on, for result.json; takes the number of
            generated images (None: not known yet) and of reference images.
        needs_reference: False where only generated images are looked at; ``values`` is then given
            a reference without images.
        needs_classes: True where an extractor's logits have to mean classes.
    """

    name: str
    measures: str
    keys: tuple[Key, ...]
    fewest: int
    values: Callable[[Generated, Reference, int], tuple[float, ...]]
    conventions: Callable[[int | None, int], dict[str, Any]]
    needs_reference: bool = True
    needs_classes: bool = False
