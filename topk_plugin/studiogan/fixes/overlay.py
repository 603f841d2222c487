"""A module as one of StudioGAN's modules shall see it."""

from typing import Any


class Overlay:
    """``module`` with other values for some of its names; the module itself stays as it is."""

    def __init__(self, module: Any, **values: Any) -> None:
        self.__dict__.update(values)
        self.__module = module

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__module, name)
