"""How many samples the generator learns from now: Sinha et al. 2020, section 3.

The paper starts at k = B and applies ``k <- max(gamma * k, nu * B)`` once an epoch. Written
without state that is the fraction ``max(gamma ** progress, nu)`` of B, where progress counts the
epochs (or blocks of steps) that are over. Nothing is compounded, so truncation never accumulates,
and a run can resume on another batch size: only the progress has to be known. Of a fraction that
is no whole number of samples, k is the whole part, but never less than nu * B: nu is a floor.

A release, which the paper does not have, brings the fraction back to 1: dropping samples helps
while the generator looks for the modes and costs quality once it has them (docs/mixture.md).
"""

import bisect
import math
import numbers
from dataclasses import dataclass
from typing import Literal

# Decimal settings such as 0.57 are not exact in binary: 0.57 * 100 is 56.99999999999999, and
# 0.07 * 100 is 7.000000000000001. A product this close to a whole number is that whole number.
_ROUNDING_SLACK = 1e-9
# A float holds no integer beyond 2^1024, and nobody has such a batch or waits for such an epoch.
_MOST = 2**63


@dataclass(frozen=True)
class KSchedule:
    """Annealing of k from the whole batch down to a floor, and back if a release is asked for.

    Args:
        gamma: factor on the kept fraction per epoch (or per ``every`` steps), in (0, 1].
            The paper's experiments lie between 0.75 and 0.999.
        nu: floor of the kept fraction, in (0, 1]; commonly 0.5 or 0.75. k is never under
            ``nu * batch_size``: 3 of 5 with nu 0.5.
        every: ``"epoch"``, or a number of generator steps after which gamma acts once.
        release_from: progress (epochs, or blocks of ``every`` steps) from which the fraction rises
            in a straight line from what it is there; None for the paper's schedule, which stays at
            its floor.
        release_to: progress from which the fraction is 1 again, and k the whole batch;
            ``release_from`` or later. At ``release_from`` itself: all at once.

    Raises:
        ValueError: an argument is outside its range, or one of the two ends of a release is
            missing; the message names it.
    """

    gamma: float = 0.99
    nu: float = 0.75
    every: Literal["epoch"] | int = "epoch"
    release_from: float | None = None
    release_to: float | None = None

    def __post_init__(self) -> None:
        for name, value in (("gamma", self.gamma), ("nu", self.nu)):
            if not (_is_number(value) and 0.0 < value <= 1.0):
                raise ValueError(f"{name} must be a number above 0 and at most 1, not {value!r}")
            self._set(name, float(value))
        every: object = self.every
        if every != "epoch":
            if isinstance(every, bool) or not isinstance(every, numbers.Integral) or every < 1:
                raise ValueError(
                    f"every must be 'epoch' or a positive number of generator steps, not {every!r}"
                )
            self._set("every", int(every))
        self._check_release()

    def _check_release(self) -> None:
        ends = (("release_from", self.release_from), ("release_to", self.release_to))
        given = {}
        for name, value in ends:
            if value is None:
                continue
            if not (_is_number(value) and 0.0 <= value <= _MOST):
                raise ValueError(f"{name} must be a progress of 0 or more, not {value!r}")
            given[name] = float(value)
            self._set(name, given[name])
        for name, value in ends:
            if value is None and given:
                raise ValueError(f"{name} must be given too: a release has a beginning and an end")
        if given and given["release_to"] < given["release_from"]:
            raise ValueError(
                f"release_to must be release_from ({given['release_from']:g}) or later, not "
                f"{given['release_to']:g}"
            )

    def _set(self, name: str, value: object) -> None:
        """Store an argument as Python's own number: NumPy's go into no JSON and no checkpoint."""
        object.__setattr__(self, name, value)

    def fraction(self, progress: float) -> float:
        """The kept fraction: ``max(gamma ** progress, nu)``, and from the release on back to 1.

        Args:
            progress: epochs (or blocks of ``every`` steps) that are over, 0 at the start.

        Raises:
            ValueError: progress is negative, NaN, or an integer beyond 2^63.
        """
        if not (_is_number(progress) and (0 <= progress <= _MOST or progress == math.inf)):
            raise ValueError(f"progress must be 0 or more, not {str(progress)[:40]}")
        if self.release_from is None or self.release_to is None or progress < self.release_from:
            return max(self.gamma**progress, self.nu)
        if progress >= self.release_to:
            return 1.0
        lowest = max(self.gamma**self.release_from, self.nu)
        risen = (progress - self.release_from) / (self.release_to - self.release_from)
        return lowest + (1.0 - lowest) * risen

    def k(self, progress: float, batch_size: int) -> int:
        """Samples kept of ``batch_size``: the whole part of ``fraction * batch_size``, but never
        under ``nu * batch_size`` and never under 1.

        Raises:
            ValueError: batch_size is not in 1..2^63, or progress is negative.
        """
        if not (_is_number(batch_size) and 1 <= batch_size <= _MOST):
            raise ValueError(f"batch_size must be 1 or more, not {str(batch_size)[:40]}")
        floor = math.ceil(self.nu * batch_size - _ROUNDING_SLACK)
        return max(1, floor, math.floor(self.fraction(progress) * batch_size + _ROUNDING_SLACK))

    def lowest_k(self, batch_size: int) -> int:
        """The smallest k at any whole progress: ``batch_size`` if the schedule drops nothing.

        Raises:
            ValueError: batch_size is under 1.
        """
        lowest = self.progress_to_floor
        if math.isinf(lowest):
            return self.k(0, batch_size)
        return min(self.k(math.floor(lowest), batch_size), self.k(math.ceil(lowest), batch_size))

    def progress_to_lowest_k(self, batch_size: int) -> int:
        """The whole progress at which k is :meth:`lowest_k` for the first time.

        k is a whole number, and may be there before the fraction is at its lowest. 0 where no
        sample is ever dropped.

        Raises:
            ValueError: batch_size is under 1.
        """
        lowest = self.lowest_k(batch_size)
        if lowest == batch_size:
            return 0
        falling = range(math.floor(self.progress_to_floor) + 1)
        return bisect.bisect_left(falling, -lowest, key=lambda p: -self.k(p, batch_size))

    @property
    def progress_to_floor(self) -> float:
        """Epochs (or blocks of steps) until the fraction is the lowest that it gets.

        That is ``nu``, or what gamma has left at a release that begins earlier; infinity if gamma
        is 1, with which no sample is ever dropped.
        """
        if self.nu == 1.0:
            return 0.0
        if self.gamma == 1.0:
            return math.inf
        to_nu = math.log(self.nu) / math.log(self.gamma)
        return to_nu if self.release_from is None else min(to_nu, self.release_from)

    @property
    def lowest_fraction(self) -> float:
        """The fraction at :attr:`progress_to_floor`; 1 if no sample is ever dropped."""
        return 1.0 if self.gamma == 1.0 else max(self.gamma**self.progress_to_floor, self.nu)


def progress_at(point: float | str, whole: float) -> float:
    """A point of the training in the schedule's units: itself, or a share such as "50%" of all."""
    return point if isinstance(point, float) else float(point.rstrip("%")) / 100 * whole


def gamma_to_reach(nu: float, progress: int) -> float:
    """The largest gamma of four decimals with which the fraction is down at ``nu`` by ``progress``.

    Args:
        nu: the floor, in (0, 1).
        progress: whole epochs, or blocks of steps; at least 1.
    """
    return math.floor(1e4 * nu ** (1 / progress)) / 1e4


def _is_number(value: object) -> bool:
    """Whether it is a real number, NumPy's too; True and False are not."""
    return isinstance(value, numbers.Real) and not isinstance(value, bool)
