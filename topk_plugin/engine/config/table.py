"""The one table of keys: those of every training, of all backbones and of all methods.

Defaults, rules, switches, refusals and the tables of the documentation come from here.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property

from topk_plugin.engine.config.core_keys import CORE
from topk_plugin.engine.keys.key import Key, When
from topk_plugin.engine.keys.rules import OneOf
from topk_plugin.engine.keys.settings import SECTIONS, Section
from topk_plugin.engine.keys.studiogan import NOT_AVAILABLE, ONLY_IN_STUDIOGAN
from topk_plugin.engine.methods.method import Method
from topk_plugin.engine.methods.registry import all_methods
from topk_plugin.engine.networks.backbone import Backbone
from topk_plugin.engine.networks.backbones import ONLY_IN_STUDIOGAN as STUDIOGAN_BACKBONES
from topk_plugin.engine.networks.backbones import all_backbones


@dataclass(frozen=True)
class Table:
    """All keys, in the order in which they are written to files."""

    keys: tuple[Key, ...]

    @cached_property
    def sections(self) -> dict[str, dict[str, Key]]:
        """Sections -> names -> keys."""
        return {
            section: {key.name: key for key in self.keys if key.section == section}
            for section in SECTIONS
        }

    @cached_property
    def known(self) -> dict[str, list[str]]:
        """Sections -> the names of all keys that this program or StudioGAN knows."""
        known = {section: list(keys) for section, keys in self.sections.items()}
        for section, keys in ONLY_IN_STUDIOGAN.items():
            known.setdefault(section, []).extend(keys)
        return known

    @cached_property
    def switches(self) -> dict[When, list[Key]]:
        """Switches -> the keys that have an effect only while they are on."""
        return self._conditions(are_switches=True)

    @cached_property
    def choices(self) -> dict[tuple[str, str], list[Key]]:
        """Choosing keys -> the keys that only some of their values read."""
        groups: dict[tuple[str, str], list[Key]] = {}
        for condition, keys in self._conditions(are_switches=False).items():
            groups.setdefault((condition.section, condition.key), []).extend(keys)
        return groups

    def _conditions(self, *, are_switches: bool) -> dict[When, list[Key]]:
        groups: dict[When, list[Key]] = {}
        for key in self.keys:
            if key.read_when is not None and key.read_when.is_switch == are_switches:
                groups.setdefault(key.read_when, []).append(key)
        return groups

    def key(self, section: str, name: str) -> Key:
        """The key of that name."""
        return self.sections[section][name]

    def defaults(self, section: str) -> dict[str, object]:
        """Names -> defaults of a section."""
        return {name: key.default for name, key in self.sections[section].items()}

    def filled(self, section: str, values: Mapping[str, object]) -> Section:
        """A section with ``values``, unchecked, and defaults for the rest."""
        unknown = values.keys() - self.sections[section].keys()
        if unknown:
            raise ValueError(f"section {section} has no key {', '.join(sorted(unknown))}")
        return Section({**self.defaults(section), **values})

    @cached_property
    def studiogan_defaults(self) -> dict[str, dict[str, object]]:
        """Sections -> keys of StudioGAN's -> its defaults, "N/A" where it has no value."""
        everything: dict[str, dict[str, object]] = {}
        for section in dict.fromkeys((*SECTIONS, *ONLY_IN_STUDIOGAN)):
            ours = self.sections.get(section, {})
            everything[section] = {
                key.name: written(key.default) for key in ours.values() if not key.ours
            } | ONLY_IN_STUDIOGAN.get(section, {})
        return everything


def table() -> Table:
    """The table of today's methods and backbones, those of installed packages included."""
    return _assembled(all_methods(), all_backbones())


_tables: dict[tuple[int, ...], Table] = {}


def _assembled(chosen: tuple[Method, ...], networks: tuple[Backbone, ...]) -> Table:
    name = tuple(id(entry) for entry in (*chosen, *networks))
    if name not in _tables:
        _tables[name] = Table(_merged(chosen, networks))
    return _tables[name]


def _merged(chosen: Iterable[Method], networks: Iterable[Backbone]) -> tuple[Key, ...]:
    keys: dict[tuple[str, str], Key] = {}
    backbone = Key(
        "MODEL",
        "backbone",
        "resnet",
        OneOf(tuple(network.name for network in networks), studiogan=STUDIOGAN_BACKBONES),
        about="the pair of networks",
    )
    for key in (backbone, *CORE):
        keys[key.section, key.name] = key
    for entry in networks:
        for key in entry.keys:
            _add(keys, key, When("MODEL", "backbone", (entry.name,)))
    for method in chosen:
        condition = method.on if isinstance(method.on, When) else None
        for key in method.keys:
            _add(keys, key, condition)
        # What chooses among methods takes the values that methods are chosen by.
        if condition is not None and not condition.is_switch:
            place = condition.section, condition.key
            rule = keys[place].rule
            assert isinstance(rule, OneOf)
            new = tuple(value for value in condition.values if value not in rule.values)
            keys[place] = replace(keys[place], rule=replace(rule, values=(*rule.values, *new)))
    return tuple(keys.values())


def _add(keys: dict[tuple[str, str], Key], key: Key, condition: When | None) -> None:
    """Add a method's key: it is read where any of the methods that bring it is on."""
    place = key.section, key.name
    before = keys.get(place)
    if condition is None or (condition.section, condition.key) == place:
        keys.setdefault(place, key)
        return
    if before is None:
        keys[place] = replace(key, read_when=condition)
        return
    other = before.read_when
    if (
        replace(before, read_when=None) != replace(key, read_when=None)
        or other is None
        or (other.section, other.key) != (condition.section, condition.key)
    ):
        raise ValueError(f"{key.full_name} is declared twice, and differently")
    values = tuple(dict.fromkeys((*other.values, *condition.values)))
    keys[place] = replace(before, read_when=replace(condition, values=values))


def written(value: object) -> object:
    """As StudioGAN writes it."""
    if value is None:
        return NOT_AVAILABLE
    if isinstance(value, tuple):
        return list(value) or [NOT_AVAILABLE]
    return value
