"""Reading a config: the YAML file and the SECTION.key=value overrides, as plain data."""

import difflib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import yaml

from topk_plugin.base.errors import UserError
from topk_plugin.engine.config.table import Table
from topk_plugin.engine.keys.rules import shown

# Levels of brackets, and of indents: a config has three. PyYAML takes the fourth power of the depth
# for "[[[[...": two kilobytes of them would hold it for minutes.
_DEEPEST: Final = 20
_LARGEST_FILE: Final = 1 << 20  # bytes; a config has a few kilobytes, a checkpoint far more


class _StrictLoader(yaml.SafeLoader):
    """PyYAML's safe loader; alone it lets the last of two equal keys win, and nests for ever."""

    def fetch_flow_collection_start(self, token: Any) -> None:
        if self.flow_level >= _DEEPEST:
            self._refuse_depth()
        super().fetch_flow_collection_start(token)

    def add_indent(self, column: int) -> bool:
        if len(self.indents) >= _DEEPEST:
            self._refuse_depth()
        return super().add_indent(column)

    def _refuse_depth(self) -> None:
        raise yaml.MarkedYAMLError(
            problem="nested too deeply to be a config", problem_mark=self.get_mark()
        )

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        first_line: dict[str, int] = {}
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                continue
            line = key.start_mark.line + 1
            if key.value in first_line:
                raise yaml.MarkedYAMLError(
                    problem=f"the key {key.value!r} stands there a second time "
                    f"(first in line {first_line[key.value]}); keep one of the two",
                    problem_mark=key.start_mark,
                )
            first_line[key.value] = line
        return node


def read_config_file(path: Path) -> object:
    """The content of a YAML file as plain Python data.

    Raises:
        UserError: missing, unreadable, too large, not text, not YAML, or a key written twice.
    """
    try:
        with open(path, "rb") as file:
            data = file.read(_LARGEST_FILE + 1)
    except FileNotFoundError:
        raise UserError(f"The config file {path} does not exist{_file_hint(path)}") from None
    except IsADirectoryError:
        raise UserError(f"{path} is a folder; give the config file (*.yaml) in it") from None
    except (OSError, ValueError) as error:
        reason = (error.strerror if isinstance(error, OSError) else None) or error
        raise UserError(f"The config file {path} can't be read ({reason})") from error
    if len(data) > _LARGEST_FILE:
        raise UserError(f"{path} is larger than 1 MiB, which no config is; give a YAML file")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise UserError(f"{path} is not UTF-8 text; give a YAML file") from None
    return _parse(text, str(path))


def read_overrides(overrides: Sequence[str], table: Table) -> dict[str, dict[str, object]]:
    """Sections -> keys -> values of "SECTION.key=value" texts; the last of equal keys wins.

    Raises:
        UserError: a text that is not of that form, or whose value is not YAML.
    """
    tree: dict[str, dict[str, object]] = {}
    for override in overrides:
        name, equals, value = override.partition("=")
        section, dot, key = (part.strip() for part in name.partition("."))
        if not (equals and dot and section and key):
            raise UserError(
                f"--set {shown(override)} is not of the form SECTION.key=value; write "
                f"{_completed(name.strip(), value, table)}"
            )
        tree.setdefault(section, {})[key] = _parse(value, f"The value in --set {shown(override)}")
    return tree


def _parse(text: str, source: str) -> object:
    try:
        return yaml.load(text, Loader=_StrictLoader)
    except yaml.MarkedYAMLError as error:
        problem = ", ".join(part for part in (error.context, error.problem) if part)
        mark = error.problem_mark
        place = f", line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        hint = "; indent with spaces, not tabs" if "'\\t'" in problem else ""
        raise UserError(f"{source}{place}: {problem}{hint}") from error
    except RecursionError:
        raise UserError(f"{source} is nested too deeply to be a config") from None
    except (yaml.YAMLError, ValueError, LookupError, AttributeError, TypeError) as error:
        # PyYAML lets plain Python errors out for tags such as "!!bool x" and impossible dates.
        raise UserError(f"{source} is not valid YAML ({shown(str(error))})") from error


def _file_hint(path: Path) -> str:
    """Names the file of the same folder that is spelt most like the missing one."""
    try:
        beside = sorted(entry.name for entry in path.parent.glob("*.y*ml"))
    except OSError:
        return ""
    close = difflib.get_close_matches(path.name, beside, n=1)
    return f"; did you mean {path.parent / close[0]}?" if close else ""


def _completed(name: str, value: str, table: Table) -> str:
    """The override that was meant by "topk_nu=0.5" or "LOSS.topk_nu", or an example."""
    for section, keys in table.known.items():
        for key in keys:
            if name in (key, f"{section}.{key}"):
                return f"{section}.{key}={value or 'VALUE'}"
    return "for example LOSS.topk_nu=0.5"
