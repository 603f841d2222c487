"""What a report needs to know of a run in StudioGAN, beside its curves."""

import logging
from collections.abc import Callable
from typing import Any

TRAINED_BY = "PyTorch-StudioGAN with topk-plugin"
SECTIONS = ("DATA", "MODEL", "LOSS", "OPTIMIZATION", "PRE", "AUG", "STYLEGAN", "RUN")


def settings_of(cfgs: Any) -> dict[str, dict[str, Any]]:
    """The plain values of StudioGAN's Configurations, by section.

    Functions, optimisers and the like, which StudioGAN keeps there too, are left out.
    """
    found = {}
    for section in SECTIONS:
        values = getattr(getattr(cfgs, section, None), "__dict__", {})
        plain = {name: _plain(value) for name, value in values.items() if _is_plain(value)}
        if plain:
            found[section] = plain
    return found


def class_names_of(loader: Any) -> list[str]:
    """The class names of torchvision's data set inside StudioGAN's; [] where it has none."""
    inner = getattr(getattr(loader, "dataset", None), "data", None)
    names = getattr(inner, "classes", None)
    return [str(name) for name in names] if isinstance(names, list | tuple) else []


class NoticeHandler(logging.Handler):
    """Gives ``keep`` the warnings and errors of StudioGAN's log."""

    def __init__(self, keep: Callable[[str], None]) -> None:
        super().__init__(logging.WARNING)
        self._keep = keep

    def emit(self, record: logging.LogRecord) -> None:
        self._keep(record.getMessage())


def _plain(value: Any) -> Any:
    """With lists in place of tuples, for which YAML has no plain form."""
    return [_plain(each) for each in value] if isinstance(value, list | tuple) else value


def _is_plain(value: Any) -> bool:
    if isinstance(value, list | tuple):
        return all(_is_plain(each) for each in value)
    return value is None or isinstance(value, bool | int | float | str)
