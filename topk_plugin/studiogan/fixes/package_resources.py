"""setuptools >= 82 has no pkg_resources, of which StudioGAN uses ``parse_version``."""

import importlib.util
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType

from packaging.version import parse

from topk_plugin.studiogan.fixes.fix import Fix

NAME = "pkg_resources"
USERS = ("utils.style_ops.conv2d_gradfix", "utils.style_ops.grid_sample_gradfix")


def _needed() -> bool:
    return NAME not in sys.modules and importlib.util.find_spec(NAME) is None


@contextmanager
def _stand_in() -> Iterator[None]:
    """Only while StudioGAN's modules import it: others look for pkg_resources to use all of it."""
    module = ModuleType(NAME)
    module.parse_version = parse  # type: ignore[attr-defined]
    sys.modules[NAME] = module
    try:
        yield
    finally:
        del sys.modules[NAME]


FIX = Fix(
    name=NAME,
    why="this setuptools has none",
    needed=_needed,
    around=dict.fromkeys(USERS, _stand_in),
)
