"""How many samples the generator learns from now: Sinha et al. 2020, section 3.

The paper starts at k = B and applies ``k <- max(gamma * k, nu * B)`` once an epoch. Written
without state that is ``k = floor(max(gamma ** progress, nu) * B)``, where progress counts the
epochs (or blocks of steps) that are over. Nothing is compounded, so truncation never accumulates,
and a run can resume on another batch size: only the progress has to be known.
"""

import math
import numbers
from dataclasses import dataclass
from typing import Literal

# Decimal settings such as 0.57 are not exact in binary: 0.57 * 100 is 56.99999999999999. A
# product this close under a whole number is that whole number.
_ROUNDING_SLACK = 1e-9


@dataclass(frozen=True)
class KSchedule:
    """Annealing of k from the whole batch down to a floor.

    Args:
        gamma: factor on the kept fraction per epoch (or per ``every`` steps), in (0, 1].
            The paper's experiments lie between 0.75 and 0.999.
        nu: floor of the kept fraction, in (0, 1]; commonly 0.5 or 0.75.
        every: ``"epoch"``, or a number of generator steps after which gamma acts once.

    Raises:
        ValueError: an argument is outside its range; the message names it.
    """

    gamma: float = 0.99
    nu: float = 0.75
    every: Literal["epoch"] | int = "epoch"

    def __post_init__(self) -> None:
        for name, value in (("gamma", self.gamma), ("nu", self.nu)):
            if not _is_fraction(value):
                raise ValueError(f"{name} must be a number above 0 and at most 1, not {value!r}")
        if self.every != "epoch" and (
            not isinstance(self.every, int) or isinstance(self.every, bool) or self.every < 1
        ):
            raise ValueError(
                f"every must be 'epoch' or a positive number of generator steps, not {self.every!r}"
            )

    def fraction(self, progress: float) -> float:
        """The kept fraction ``max(gamma ** progress, nu)``.

        Args:
            progress: epochs (or blocks of ``every`` steps) that are over, 0 at the start.

        Raises:
            ValueError: progress is negative or NaN.
        """
        if not progress >= 0:
            raise ValueError(f"progress must be 0 or more, not {progress!r}")
        return max(self.gamma**progress, self.nu)

    def k(self, progress: float, batch_size: int) -> int:
        """Samples kept of ``batch_size``: ``floor(fraction * batch_size)``, at least 1.

        Raises:
            ValueError: batch_size is under 1, or progress is negative.
        """
        if batch_size < 1:
            raise ValueError(f"batch_size must be 1 or more, not {batch_size!r}")
        return max(1, math.floor(self.fraction(progress) * batch_size + _ROUNDING_SLACK))

    @property
    def progress_to_floor(self) -> float:
        """Epochs (or blocks of steps) until the fraction is ``nu``; infinity if it never is."""
        if self.nu == 1.0:
            return 0.0
        if self.gamma == 1.0:
            return math.inf
        return math.log(self.nu) / math.log(self.gamma)


def _is_fraction(value: object) -> bool:
    """Whether it is a number (NumPy's too) above 0 and at most 1; NaN is not."""
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        return False
    return 0.0 < float(value) <= 1.0
