"""StudioGAN's ``Configurations`` learns the plugin's flags."""

import difflib
import re
from contextlib import nullcontext
from types import ModuleType
from typing import Any

from topk_plugin.studiogan.flags import DEFAULTS, TopKFlagError, TopKFlags
from topk_plugin.studiogan.swap import swapped


def adapt_configurations(config: ModuleType) -> None:
    """Add the flags with their defaults, and check them where StudioGAN checks its own.

    Args:
        config: StudioGAN's module ``config``, just imported.
    """
    configurations: Any = config.Configurations
    load_base_cfgs = configurations.load_base_cfgs
    overwrite_cfgs = configurations._overwrite_cfgs
    check_compatability = configurations.check_compatability

    def load_with_flags(self: Any) -> None:
        load_base_cfgs(self)
        for name, value in DEFAULTS.items():
            setattr(self.LOSS, name, value)

    def overwrite_or_suggest(self: Any, cfg_file: str) -> None:
        try:
            overwrite_cfgs(self, cfg_file)
        except AttributeError as error:
            _suggest_flag(error)
            raise

    def check_with_flags(self: Any) -> None:
        flags = TopKFlags.of(self)
        if flags is not None:  # as numbers: YAML reads 1e-1 as text, and StudioGAN computes with it
            self.LOSS.topk_gamma, self.LOSS.topk_nu = flags.gamma, flags.nu
        # StudioGAN refuses top-k for MHGAN, whose critic gives a row of logits that its slice
        # can't cut; the gate has no trouble with it.
        unsliced = flags is not None and flags.mode == "gate"
        with swapped(self.LOSS, "apply_topk", False) if unsliced else nullcontext():
            check_compatability(self)

    configurations.load_base_cfgs = load_with_flags
    configurations._overwrite_cfgs = overwrite_or_suggest
    configurations.check_compatability = check_with_flags


def _suggest_flag(error: AttributeError) -> None:
    """Name the flag that is meant, where StudioGAN refuses 'SECTION.NAME' and it is one of ours."""
    given = re.search(r"'(\w+)\.(\w+)'", str(error))
    if given is None:
        return
    flags = ["apply_topk", "topk_gamma", "topk_nu", *DEFAULTS]
    # StudioGAN has other flags that begin with apply_
    likeness = 0.0 if given[2].startswith("topk") else 0.8
    for near in difflib.get_close_matches(given[2], flags, n=1, cutoff=likeness):
        raise TopKFlagError(
            f"{given[1]}.{given[2]} is no setting; did you mean LOSS.{near}?"
        ) from None
