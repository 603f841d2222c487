"""StudioGAN's ``Configurations`` learns the plugin's flags."""

from contextlib import nullcontext
from types import ModuleType
from typing import Any

from topk_plugin.studiogan.flags import DEFAULTS, TopKFlags
from topk_plugin.studiogan.swap import swapped


def adapt_configurations(config: ModuleType) -> None:
    """Add the flags with their defaults, and check them where StudioGAN checks its own.

    Args:
        config: StudioGAN's module ``config``, just imported.
    """
    configurations: Any = config.Configurations
    load_base_cfgs = configurations.load_base_cfgs
    check_compatability = configurations.check_compatability

    def load_with_flags(self: Any) -> None:
        load_base_cfgs(self)
        for name, value in DEFAULTS.items():
            setattr(self.LOSS, name, value)

    def check_with_flags(self: Any) -> None:
        flags = TopKFlags.of(self)
        # StudioGAN refuses top-k for MHGAN, whose critic gives a row of logits that its slice
        # can't cut; the gate has no trouble with it.
        unsliced = flags is not None and flags.mode == "gate"
        with swapped(self.LOSS, "apply_topk", False) if unsliced else nullcontext():
            check_compatability(self)

    configurations.load_base_cfgs = load_with_flags
    configurations.check_compatability = check_with_flags
