"""Which sections and keys a config may hold: unknown ones and unsupported ones are refused."""

from collections.abc import Mapping

from topk_plugin.base.errors import UserError
from topk_plugin.engine.config.table import Table
from topk_plugin.engine.keys.rules import nearest, shown
from topk_plugin.engine.keys.studiogan import (
    NOT_AVAILABLE,
    ONLY_IN_STUDIOGAN,
    RUN_OPTIONS,
    STUDIOGAN_WAY,
)

Tree = dict[str, dict[str, object]]


def known_tree(tree: object, source: str, table: Table) -> Tree:
    """Return ``tree`` once every name in it is known to StudioGAN or the plugin.

    Args:
        tree: what a YAML file holds; anything at all.
        source: what to call it in a sentence, such as the file's path.
        table: all keys.

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
        section: _known_content(_known_section(section, source, table), content, source, table)
        for section, content in tree.items()
    }


def refuse_unsupported(tree: Tree, table: Table) -> None:
    """Refuse what StudioGAN has and the built-in trainer has not, unless it is switched off.

    Raises:
        UserError: such a key holds anything but StudioGAN's default.
    """
    for section, content in tree.items():
        for key, value in content.items():
            if key in table.sections.get(section, ()):
                continue
            default = ONLY_IN_STUDIOGAN[section][key]
            if value != default:
                raise UserError(
                    f"{section}.{key} is {shown(value)}: StudioGAN takes this key, the built-in "
                    f"trainer only at StudioGAN's default {default!r}; leave it out, or train it "
                    f"with {STUDIOGAN_WAY}"
                )


def _known_section(section: object, source: str, table: Table) -> str:
    if isinstance(section, str) and section in table.known:
        return section
    name = _cut(section)
    home = _section_of(name, table)
    if home is not None:
        raise UserError(
            f"{name} stands outside any section in {source}; it is a key of {home}, to be "
            f"indented under {home}:"
        )
    raise UserError(
        f"{source} holds a section {name}, which is not known: StudioGAN would not take it "
        f"either; the nearest known section is {nearest(name, table.known)}"
    )


def _known_content(section: str, content: object, source: str, table: Table) -> dict[str, object]:
    if not isinstance(content, Mapping):
        given = "is empty" if content is None else f"holds {shown(content)}"
        raise UserError(
            f"Section {section} of {source} {given}; it needs one 'key: value' a line indented "
            "under it (leave the section out for StudioGAN's defaults)"
        )
    for key, value in content.items():
        _refuse_unknown_key(section, key, table)
        if value is None:
            raise UserError(
                f"{section}.{key} has no value; give one, leave the key out for its default, "
                f'or write "{NOT_AVAILABLE}" where StudioGAN does'
            )
    return dict(content)


def _refuse_unknown_key(section: str, key: object, table: Table) -> None:
    if isinstance(key, str) and key in table.known[section]:
        return
    name = f"{section}.{_cut(key)}"
    if key in RUN_OPTIONS:
        option = RUN_OPTIONS[str(key)]
        ours = f"here it is {option}"
        if option is None:
            ours = f"the built-in trainer has no such option; train it with {STUDIOGAN_WAY}"
        raise UserError(
            f"{name} can't stand in a config: StudioGAN takes {key} on the command line and in no "
            f"YAML file; {ours}"
        )
    if section == "RUN":
        raise UserError(
            f"{name} can't stand in a config: StudioGAN takes the options of RUN on the command "
            "line and in no YAML file, and this is none of them; see `topk-plugin train --help`"
        )
    home = _section_of(str(key), table)
    neighbour = f"{home}.{key}" if home else f"{section}.{nearest(str(key), table.known[section])}"
    raise UserError(
        f"{name} is not a known key: StudioGAN would not take it either; the nearest known key is "
        f"{neighbour}"
    )


def _cut(name: object) -> str:
    """A name as it stands, if it fits in a sentence."""
    return name if isinstance(name, str) and len(name) <= 100 else shown(name)


def _section_of(key: str, table: Table) -> str | None:
    """The section that has exactly this key."""
    return next((section for section, keys in table.known.items() if key in keys), None)
