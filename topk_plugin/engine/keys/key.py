"""One setting of a training, as every check, default and table of the documentation reads it."""

from dataclasses import dataclass, replace
from typing import Any

from topk_plugin.base.errors import UserError
from topk_plugin.engine.keys.rules import Flag, Rule
from topk_plugin.engine.keys.settings import Settings


@dataclass(frozen=True)
class When:
    """A condition on another key: a switch that is True, or a choice among several values.

    Attributes:
        section, key: the other key.
        values: those that meet the condition; ``(True,)`` for a switch.
    """

    section: str
    key: str
    values: tuple[object, ...] = (True,)

    def __call__(self, settings: Settings) -> bool:
        """Whether ``settings`` meet the condition."""
        return self.value(settings) in self.values

    @property
    def is_switch(self) -> bool:
        """Whether the other key is switched on or off, not chosen among values."""
        return self.values == (True,)

    def value(self, settings: Settings) -> object:
        """What the other key is."""
        return getattr(getattr(settings, self.section), self.key)

    def described(self, settings: Settings) -> str:
        """The condition as met, such as "LOSS.apply_topk" or "MODEL.d_cond_mtd '2C'"."""
        name = f"{self.section}.{self.key}"
        return name if self.is_switch else f"{name} {self.value(settings)!r}"


@dataclass(frozen=True)
class Key:
    """One key of a config.

    Attributes:
        section: such as "LOSS".
        name: such as "topk_nu".
        default: what it is when left out: StudioGAN's default for StudioGAN's keys, its "N/A" being
            None.
        rule: what it may be.
        ours: StudioGAN does not know it; it is written to files only where it is not the default.
        may_be_absent: "N/A" is allowed (it always is where the default is None).
        read_when: the condition under which it has an effect; None: always.
        needed: it must have a value whenever it has an effect.
        about: one line for the documentation.
    """

    section: str
    name: str
    default: object
    rule: Rule
    ours: bool = False
    may_be_absent: bool = False
    read_when: When | None = None
    needed: bool = False
    about: str = ""

    @property
    def full_name(self) -> str:
        """SECTION.name."""
        return f"{self.section}.{self.name}"

    @property
    def absent_allowed(self) -> bool:
        """Whether "N/A" is a value of it."""
        return self.may_be_absent or self.default is None

    def require(self, settings: Settings, because: str) -> Any:
        """Its value in ``settings``.

        Raises:
            UserError: it has none, and ``because`` needs one.
        """
        value = getattr(getattr(settings, self.section), self.name)
        if value is None:
            raise UserError(
                f"{because} needs {self.full_name}, which has no value; it must be "
                f"{self.rule.allowed}"
            )
        return value


def switch(section: str, name: str, *, ours: bool = False, about: str = "") -> Key:
    """A key that turns a method on."""
    return Key(section, name, False, Flag(), ours=ours, about=about)


def read_under(condition: When, *keys: Key) -> tuple[Key, ...]:
    """``keys``, which have an effect only under ``condition``."""
    return tuple(replace(key, read_when=condition) for key in keys)
