"""A training run's configuration: StudioGAN's YAML schema, read strictly and typed.

The same file trains StudioGAN and the built-in engine. What the engine can't do is refused when
the file is read, in a sentence, and never ignored.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import yaml

from topk_plugin.engine.config.file import read_config_file, read_overrides
from topk_plugin.engine.config.names import Tree, known_tree, refuse_unsupported
from topk_plugin.engine.config.rules import Rule
from topk_plugin.engine.config.sections import (
    ABSENT,
    RULE,
    SECTIONS,
    AugConfig,
    DataConfig,
    LossConfig,
    ModelConfig,
    OptimizationConfig,
    PreConfig,
)
from topk_plugin.engine.config.studiogan_schema import NOT_AVAILABLE, PLUGIN_KEYS
from topk_plugin.engine.config.together import (
    check_methods,
    check_switches,
    check_together,
    merged,
    without_resting,
)

__all__ = [
    "AugConfig",
    "Config",
    "DataConfig",
    "LossConfig",
    "ModelConfig",
    "OptimizationConfig",
    "PreConfig",
    "load_config",
]


@dataclass(frozen=True)
class Config:
    """All sections of a run's configuration, with StudioGAN's names and defaults.

    A config built from the dataclasses directly is not checked; `load_config` and `from_dict`
    check every value.
    """

    DATA: DataConfig = field(default_factory=DataConfig)
    MODEL: ModelConfig = field(default_factory=ModelConfig)
    LOSS: LossConfig = field(default_factory=LossConfig)
    OPTIMIZATION: OptimizationConfig = field(default_factory=OptimizationConfig)
    PRE: PreConfig = field(default_factory=PreConfig)
    AUG: AugConfig = field(default_factory=AugConfig)

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
        return cls._from_layers([known_tree(tree, source)])

    @classmethod
    def _from_layers(cls, layers: Sequence[Tree]) -> "Config":
        """Later layers win over earlier ones."""
        given = merged(layers)
        _read_sections(given)
        # After the values, so that a StyleGAN2 file is refused for its backbone and not for a
        # detail of it.
        refuse_unsupported(given)
        check_switches(layers)
        check_methods(layers)
        config = cls(**_read_sections(without_resting(given)))
        check_together(config.DATA, config.MODEL, config.LOSS, config.OPTIMIZATION, config.AUG)
        return config

    def to_dict(self) -> Tree:
        """Sections -> keys -> plain values (text, numbers, True/False, lists), as StudioGAN has it.

        None is written "N/A". The plugin's own keys are left out while they hold their defaults,
        so that a StudioGAN without the plugin reads the result too.
        """
        tree: Tree = {}
        for name, section in SECTIONS.items():
            own = PLUGIN_KEYS.get(name, frozenset())
            values = getattr(self, name)
            tree[name] = {
                key.name: _plain(getattr(values, key.name))
                for key in fields(section)
                if key.name not in own or getattr(values, key.name) != key.default
            }
        return tree

    def to_yaml(self) -> str:
        """`to_dict` as the text of a YAML file."""
        return yaml.safe_dump(self.to_dict(), sort_keys=False, allow_unicode=True)


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
    in_file = known_tree(read_config_file(path), str(path))
    overriding = known_tree(read_overrides(overrides), "--set")
    return Config._from_layers([in_file, overriding])


def _read_sections(tree: Tree) -> dict[str, Any]:
    return {
        name: _read_section(name, section, tree.get(name, {})) for name, section in SECTIONS.items()
    }


def _read_section(name: str, section: type, given: Mapping[str, object]) -> object:
    """Apply the rule of every key; keys that were not given hold StudioGAN's default."""
    values: dict[str, object] = {}
    for key in fields(section):
        rule: Rule = key.metadata[RULE]
        full_name = f"{name}.{key.name}"
        if key.name not in given:
            # Checked too: the engine does not support every default of StudioGAN.
            if key.default is not None:
                rule.read(f"{full_name} (left out, so StudioGAN's default)", key.default)
            values[key.name] = key.default
        elif key.metadata[ABSENT] and given[key.name] == NOT_AVAILABLE:
            values[key.name] = None
        else:
            values[key.name] = rule.read(full_name, given[key.name])
    return section(**values)


def _plain(value: object) -> object:
    if value is None:
        return NOT_AVAILABLE
    if isinstance(value, tuple):
        return list(value) or [NOT_AVAILABLE]
    return value
