"""A training run's configuration: StudioGAN's YAML schema, read strictly.

The same file trains StudioGAN and the built-in trainer. What the trainer can't do is refused when
the file is read, in a sentence, and never ignored.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from topk_plugin.engine.config.checks import (
    check_choices,
    check_switches,
    check_together,
    merged,
    without_unread,
)
from topk_plugin.engine.config.file import read_config_file, read_overrides
from topk_plugin.engine.config.names import Tree, known_tree, refuse_unsupported
from topk_plugin.engine.config.table import Table, table, written
from topk_plugin.engine.keys.settings import SECTIONS, Section, Settings
from topk_plugin.engine.keys.studiogan import NOT_AVAILABLE


@dataclass(frozen=True)
class Config(Settings):
    """All sections of a run's configuration, with StudioGAN's names and defaults."""

    @classmethod
    def from_dict(cls, tree: object, source: str = "The config") -> "Config":
        """Check a nested mapping of sections, keys and values, and make a config of it.

        Args:
            tree: what a YAML file holds, or what `to_dict` returned.
            source: what to call it in error messages, such as a file's path.

        Raises:
            UserError: anything in it is unknown, unsupported, of the wrong type, out of range, or
                does not go together.
        """
        keys = table()
        return cls._from_layers([known_tree(tree, source, keys)], keys)

    @classmethod
    def unchecked(cls, **sections: Mapping[str, object]) -> "Config":
        """A config of these values and defaults for the rest; nothing but names is checked.

        Raises:
            ValueError: an unknown section or key.
        """
        keys = table()
        unknown = sections.keys() - set(SECTIONS)
        if unknown:
            raise ValueError(f"there is no section {', '.join(sorted(unknown))}")
        return cls(**{name: keys.filled(name, sections.get(name, {})) for name in SECTIONS})

    @classmethod
    def _from_layers(cls, layers: Sequence[Tree], keys: Table) -> "Config":
        """Later layers win over earlier ones."""
        given = merged(layers)
        _read(given, keys)
        # After the values, so that a StyleGAN2 file is refused for its backbone and not for a
        # detail of it.
        refuse_unsupported(given, keys)
        check_switches(layers, keys)
        check_choices(layers, keys)
        config = cls(**_read(without_unread(given, keys), keys))
        check_together(config, keys)
        return config

    def to_dict(self) -> Tree:
        """Sections -> keys -> plain values (text, numbers, True/False, lists), as StudioGAN has it.

        None is written "N/A". Keys that StudioGAN does not know are left out while they hold their
        defaults, so that a StudioGAN without the plugin reads the result too.
        """
        keys = table().sections
        return {
            name: {
                key: written(value)
                for key, value in getattr(self, name)
                if not keys[name][key].ours or value != keys[name][key].default
            }
            for name in SECTIONS
        }

    def to_yaml(self) -> str:
        """`to_dict` as the text of a YAML file."""
        return yaml.safe_dump(self.to_dict(), sort_keys=False, allow_unicode=True)

    def changes_to(self, other: "Config") -> list[str]:
        """One text for each key whose value in ``other`` is another: "SECTION.key 1 -> 2"."""
        return [
            f"{name}.{key} {getattr(getattr(self, name), key)!r} -> {value!r}"
            for name in SECTIONS
            for key, value in getattr(other, name)
            if getattr(getattr(self, name), key) != value
        ]


def load_config(path: Path | str, overrides: Sequence[str] = ()) -> Config:
    """Read a StudioGAN YAML file and apply overrides.

    Args:
        path: the YAML file.
        overrides: texts "SECTION.key=value" (the command line's ``--set``); the value is YAML.

    Raises:
        UserError: the file can't be read, or anything in it or in the overrides is unknown,
            unsupported, of the wrong type, out of range, or does not go together.
    """
    path = Path(path)
    keys = table()
    in_file = known_tree(read_config_file(path), str(path), keys)
    overriding = known_tree(read_overrides(overrides, keys), "--set", keys)
    return Config._from_layers([in_file, overriding], keys)


def _read(tree: Tree, keys: Table) -> dict[str, Any]:
    return {name: _read_section(name, keys, tree.get(name, {})) for name in SECTIONS}


def _read_section(section: str, keys: Table, given: Mapping[str, object]) -> Section:
    """Apply the rule of every key; keys that were not given hold their default."""
    values: dict[str, object] = {}
    for name, key in keys.sections[section].items():
        if name not in given:
            # Checked too: the trainer does not support every default of StudioGAN.
            if key.default is not None:
                key.rule.read(f"{key.full_name} (left out, so its default)", key.default)
            values[name] = key.default
        elif key.absent_allowed and given[name] == NOT_AVAILABLE:
            values[name] = None
        else:
            values[name] = key.rule.read(key.full_name, given[name])
    return Section(values)
