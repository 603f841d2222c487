"""Which sections and keys a config may hold: unknown ones and unsupported ones are refused."""

from collections.abc import Mapping
from dataclasses import fields

from topk_plugin.base.errors import UserError
from topk_plugin.engine.config.rules import nearest, shown
from topk_plugin.engine.config.sections import SECTIONS
from topk_plugin.engine.config.studiogan_schema import (
    NOT_AVAILABLE,
    PLUGIN_KEYS,
    RUN_OPTIONS,
    STUDIOGAN_DEFAULTS,
    STUDIOGAN_WAY,
)

Tree = dict[str, dict[str, object]]


def _known_keys(section: str) -> list[str]:
    """Every key of ``section`` that StudioGAN or the plugin knows."""
    return [*STUDIOGAN_DEFAULTS[section], *sorted(PLUGIN_KEYS.get(section, ()))]


def known_tree(tree: object, source: str) -> Tree:
    """Return ``tree`` once every name in it is known to StudioGAN or the plugin.

    Args:
        tree: what a YAML file holds; anything at all.
        source: what to call it in a sentence, such as the file's path.

    Raises:
        UserError: not a mapping of sections, an unknown section or key, or a key without a value.
    """
    if tree is None:
        raise UserError(f"{source} is empty; it needs sections such as DATA, MODEL and LOSS")
    if not isinstance(tree, Mapping):
        raise UserError(
            f"{source} holds {shown(tree)}, not sections; it needs DATA:, MODEL:, LOSS: ... with "
            "one 'key: value' a line indented under each"
        )
    return {
        section: _known_content(_known_section(section, source), content, source)
        for section, content in tree.items()
    }


def refuse_unsupported(tree: Tree) -> None:
    """Refuse what StudioGAN has and the built-in engine has not, unless it is switched off.

    Raises:
        UserError: such a key holds anything but StudioGAN's default.
    """
    for section, content in tree.items():
        attributes = {key.name for key in fields(SECTIONS[section])} if section in SECTIONS else ()
        for key, value in content.items():
            if key in attributes:
                continue
            default = STUDIOGAN_DEFAULTS[section][key]
            if value != default:
                raise UserError(
                    f"{section}.{key} is {shown(value)}: StudioGAN takes this key, the built-in "
                    f"engine only at StudioGAN's default {default!r}; leave it out, or train it "
                    f"with {STUDIOGAN_WAY}"
                )


def _known_section(section: object, source: str) -> str:
    if isinstance(section, str) and section in STUDIOGAN_DEFAULTS:
        return section
    name = str(section) if isinstance(section, str) else shown(section)
    home = _section_of(name)
    if home is not None:
        raise UserError(
            f"{name} stands outside any section in {source}; it is a key of {home}, to be "
            f"indented under {home}:"
        )
    raise UserError(
        f"{source} holds a section {name}, which is not known: StudioGAN would not take it "
        f"either; the nearest known section is {nearest(name, STUDIOGAN_DEFAULTS)}"
    )


def _known_content(section: str, content: object, source: str) -> dict[str, object]:
    if not isinstance(content, Mapping):
        given = "is empty" if content is None else f"holds {shown(content)}"
        raise UserError(
            f"Section {section} of {source} {given}; it needs one 'key: value' a line indented "
            "under it (leave the section out for StudioGAN's defaults)"
        )
    for key, value in content.items():
        _refuse_unknown_key(section, key)
        if value is None:
            raise UserError(
                f"{section}.{key} has no value; give one, leave the key out for its default, "
                f'or write "{NOT_AVAILABLE}" where StudioGAN does'
            )
    return dict(content)


def _refuse_unknown_key(section: str, key: object) -> None:
    if isinstance(key, str) and key in _known_keys(section):
        return
    name = f"{section}.{key if isinstance(key, str) else shown(key)}"
    if key in RUN_OPTIONS:
        option = RUN_OPTIONS[str(key)]
        ours = f"here it is {option}"
        if option is None:
            ours = f"the built-in engine has no such option; train it with {STUDIOGAN_WAY}"
        raise UserError(
            f"{name} can't stand in a config: StudioGAN takes {key} on the command line and in no "
            f"YAML file; {ours}"
        )
    if section == "RUN":
        raise UserError(
            f"{name} can't stand in a config: StudioGAN takes the options of RUN on the command "
            "line and in no YAML file, and this is none of them; see `topk-plugin train --help`"
        )
    home = _section_of(str(key))
    neighbour = f"{home}.{key}" if home else f"{section}.{nearest(str(key), _known_keys(section))}"
    raise UserError(
        f"{name} is not a known key: StudioGAN would not take it either; the nearest known key is "
        f"{neighbour}"
    )


def _section_of(key: str) -> str | None:
    """The section that has exactly this key."""
    return next((section for section in STUDIOGAN_DEFAULTS if key in _known_keys(section)), None)
