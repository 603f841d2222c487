"""What a compatibility fix is."""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from types import ModuleType


@dataclass(frozen=True)
class Fix:
    """One change, made in a running StudioGAN, that lets it work with today's libraries.

    Attributes:
        name: its switch.
        why: what would go wrong without it, in a few words.
        needed: whether it is, on this machine and with these libraries.
        around: StudioGAN's module -> a context that is open while the module is executed.
        after: StudioGAN's module -> what to do with it once it was imported.
        around_main: open from the start until ``load_worker`` starts.
        around_worker: open while ``load_worker`` runs.
    """

    name: str
    why: str
    needed: Callable[[], bool]
    around: Mapping[str, Callable[[], AbstractContextManager[None]]] = field(default_factory=dict)
    after: Mapping[str, Callable[[ModuleType], None]] = field(default_factory=dict)
    around_main: Callable[[], AbstractContextManager[None]] | None = None
    around_worker: Callable[[], AbstractContextManager[None]] | None = None
