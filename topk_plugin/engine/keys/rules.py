"""What one value of a config may be, and the sentence that refuses anything else."""

import difflib
import math
import re
import reprlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final

from topk_plugin.base.errors import UserError
from topk_plugin.engine.keys.studiogan import NOT_AVAILABLE, STUDIOGAN_WAY

# YAML 1.1 wants a dot and a signed exponent, so that 1e-4, 2.0e5 and 1E3 arrive as text.
_EXPONENT_NUMBER = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+")
_PLAIN_NUMBER = re.compile(r"\s*[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?\s*")
_LARGEST_WHOLE: Final = 2**31 - 1  # sizes and counts beyond it can only be a slip of the keyboard
_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = 60
_SHORT.maxlevel = 3


def shown(value: object) -> str:
    """``repr(value)`` cut to a length that fits in a sentence, whatever a YAML file made of it."""
    try:
        return _SHORT.repr(value)
    except ValueError:  # Python refuses to print integers of more than 4300 digits
        return "a number of thousands of digits"


def nearest(name: str, known: Iterable[str]) -> str:
    """The entry of ``known`` (not empty) that is spelt most like ``name``, case set aside."""
    by_lower = {entry.lower(): entry for entry in known}
    return by_lower[difflib.get_close_matches(name.lower(), by_lower, n=1, cutoff=0.0)[0]]


class Rule(ABC):
    """Checks one value and returns it in the type the trainer works with."""

    @property
    @abstractmethod
    def allowed(self) -> str:
        """What is allowed, to stand after "it must be"."""

    @abstractmethod
    def read(self, name: str, value: object) -> object:
        """Return ``value`` as the trainer wants it.

        Raises:
            UserError: ``value`` is not allowed for the key ``name`` ("SECTION.key").
        """

    def refuse(self, name: str, value: object, hint: str = "") -> UserError:
        """The sentence that refuses ``value``."""
        return UserError(f"{name} is {shown(value)}; it must be {self.allowed}{hint}")


@dataclass(frozen=True)
class Flag(Rule):
    """True or False."""

    @property
    def allowed(self) -> str:
        return "True or False"

    def read(self, name: str, value: object) -> object:
        if isinstance(value, bool):
            return value
        quoted = isinstance(value, str) and value.strip().lower() in ("true", "false")
        raise self.refuse(name, value, ", without quotes" if quoted else "")


@dataclass(frozen=True)
class Number(Rule):
    """A finite real number in an interval; whole numbers become float.

    Bounds that are None do not exist; ``above`` and ``below`` exclude the bound itself.
    """

    at_least: float | None = None
    above: float | None = None
    at_most: float | None = None
    below: float | None = None

    @property
    def allowed(self) -> str:
        low = (("of at least", self.at_least), ("above", self.above))
        high = (("at most", self.at_most), ("below", self.below))
        bounds = [f"{word} {bound:g}" for word, bound in (*low, *high) if bound is not None]
        return " ".join(["a number", " and ".join(bounds)])

    def read(self, name: str, value: object) -> object:
        number = _as_float(value)
        inside = (
            number is not None
            and (self.at_least is None or number >= self.at_least)
            and (self.above is None or number > self.above)
            and (self.at_most is None or number <= self.at_most)
            and (self.below is None or number < self.below)
        )
        if not inside:
            raise self.refuse(name, value, _unquote_hint(value))
        return number


@dataclass(frozen=True)
class Whole(Rule):
    """A whole number; 64.0 and 1e5 count as whole."""

    at_least: int

    @property
    def allowed(self) -> str:
        return f"a whole number of at least {self.at_least}"

    def read(self, name: str, value: object) -> object:
        number = _as_whole(value)
        if number is None or number < self.at_least:
            raise self.refuse(name, value, _unquote_hint(value))
        if number > _LARGEST_WHOLE:
            raise self.refuse(name, value, f" and at most {_LARGEST_WHOLE}")
        return number


@dataclass(frozen=True)
class Text(Rule):
    """One line of text that is not empty."""

    @property
    def allowed(self) -> str:
        return "one line of text that is not empty"

    def read(self, name: str, value: object) -> object:
        if isinstance(value, str) and value.strip() and value.isprintable():
            return value
        raise self.refuse(name, value, "" if isinstance(value, str) else "; put it in quotes")


@dataclass(frozen=True)
class OneOf(Rule):
    """One of a few values; ``studiogan`` holds those that StudioGAN takes and the trainer not.

    ``reason`` follows in the sentence that refuses another value.
    """

    values: tuple[object, ...]
    studiogan: tuple[object, ...] = ()
    reason: str = ""

    @property
    def allowed(self) -> str:
        listed = ", ".join(repr(value) for value in self.values)
        return f"one of {listed}" if len(self.values) > 1 else listed

    def read(self, name: str, value: object) -> object:
        for known in self.values:
            if type(value) is type(known) and value == known:
                return value
        if isinstance(value, (str, int)) and value in self.studiogan:
            raise UserError(
                f"{name} is {shown(value)}, which StudioGAN takes and the built-in trainer does "
                f"not; choose {self.allowed}, or train it with {STUDIOGAN_WAY}"
            )
        raise self.refuse(name, value, self._hint(value) + self.reason)

    def _hint(self, value: object) -> str:
        texts = [known for known in self.values if isinstance(known, str)]
        if not isinstance(value, str):
            return " in quotes" if texts else ""
        if value.strip() in map(str, self.values):
            return ", exactly so" if texts else ", without quotes"
        if not texts:
            return ""
        guess = nearest(value, texts)
        likeness = difflib.SequenceMatcher(None, value.lower(), guess.lower()).ratio()
        return f"; did you mean {guess!r}?" if likeness > 0.6 else ""


@dataclass(frozen=True)
class Registered(Rule):
    """One of the names that a registry holds when the value is read."""

    names: Callable[[], Iterable[str]]
    studiogan: tuple[object, ...] = ()

    @property
    def allowed(self) -> str:
        return self._now.allowed

    def read(self, name: str, value: object) -> object:
        return self._now.read(name, value)

    @property
    def _now(self) -> OneOf:
        return OneOf(tuple(self.names()), self.studiogan)


@dataclass(frozen=True)
class Every(Rule):
    """When the top-k schedule moves: "epoch", or a number of generator steps."""

    @property
    def allowed(self) -> str:
        return "'epoch' or a whole number of generator steps of at least 1"

    def read(self, name: str, value: object) -> object:
        if value == "epoch":
            return value
        number = _as_whole(value)
        if number is None or not 1 <= number <= _LARGEST_WHOLE:
            raise self.refuse(name, value, _unquote_hint(value))
        return number


@dataclass(frozen=True)
class Blocks(Rule):
    """A list of block numbers, counted from 1; empty and ["N/A"] mean none."""

    @property
    def allowed(self) -> str:
        return "a list of different block numbers such as [2]"

    def read(self, name: str, value: object) -> object:
        if value in ([], (), [NOT_AVAILABLE], NOT_AVAILABLE):
            return ()
        if not isinstance(value, (list, tuple)):
            raise self.refuse(name, value)
        whole = all(type(block) is int and block >= 1 for block in value)
        if not whole or len(set(value)) != len(value):
            raise self.refuse(name, value, ", each of at least 1")
        return tuple(value)


def _as_float(value: object) -> float | None:
    """A finite float, or None where ``value`` is no number (True and False are none)."""
    if isinstance(value, str) and _EXPONENT_NUMBER.fullmatch(value):
        value = float(value)
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if math.isfinite(number) else None


def _as_whole(value: object) -> int | None:
    """A whole number, or None where ``value`` is none; 64.0 and 1e5 count as whole."""
    number = _as_float(value)
    return int(number) if number is not None and number.is_integer() else None


def _unquote_hint(value: object) -> str:
    """For "0.5" given as text."""
    quoted = isinstance(value, str) and _PLAIN_NUMBER.fullmatch(value) is not None
    return ", without quotes" if quoted else ""


@dataclass(frozen=True)
class Share(Rule):
    """A point of the training: in the schedule's units of progress, or as a share such as "50%"."""

    @property
    def allowed(self) -> str:
        return (
            "a number of at least 0 (in epochs, or in what topk_every counts) or a share of the "
            "run such as '50%'"
        )

    def read(self, name: str, value: object) -> object:
        if isinstance(value, str) and value.strip().endswith("%"):
            digits = value.strip()[:-1]
            share = float(digits) if _PLAIN_NUMBER.fullmatch(digits) else math.nan
            if not 0 <= share <= 100:
                raise self.refuse(name, value, ", from 0% to 100%")
            return f"{share:g}%"
        number = _as_float(value)
        if number is None or number < 0:
            raise self.refuse(name, value, _unquote_hint(value))
        return number
