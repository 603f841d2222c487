"""Sections of settings, read by attribute: ``settings.LOSS.topk_nu``."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from typing import Any, NoReturn


class Section:
    """The keys of one section and their values; frozen.

    Which keys there are, and of which types, is said by the :class:`~.key.Key` of each.
    """

    __slots__ = ("_values",)

    def __init__(self, values: Mapping[str, Any]) -> None:
        object.__setattr__(self, "_values", dict(values))

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # copying and pickling ask before there are values
            raise AttributeError(name)
        try:
            return self._values[name]
        except KeyError:
            raise AttributeError(f"no key {name!r}; there are {', '.join(self._values)}") from None

    def __setattr__(self, name: str, value: object) -> NoReturn:
        raise AttributeError(f"settings are frozen; {name} can't be changed")

    def __iter__(self) -> Iterator[tuple[str, Any]]:
        """Pairs of key and value."""
        return iter(self._values.items())

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Section) and self._values == other._values

    def __hash__(self) -> int:
        return hash(tuple(self._values.items()))

    def __repr__(self) -> str:
        return f"Section({self._values})"

    def __reduce__(self) -> tuple[Any, ...]:
        return Section, (self._values,)


@dataclass(frozen=True)
class Settings:
    """All sections of a training's configuration, under StudioGAN's names."""

    DATA: Section
    MODEL: Section
    LOSS: Section
    OPTIMIZATION: Section
    PRE: Section
    AUG: Section


SECTIONS = tuple(field.name for field in fields(Settings))
