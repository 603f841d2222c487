"""SciPy 1.18's sqrtm has no ``disp``, which StudioGAN's FID gives, and 1.16 deprecates it."""

from types import ModuleType
from typing import Any

from topk_plugin.studiogan.fixes.fix import Fix
from topk_plugin.studiogan.fixes.installed import at_least
from topk_plugin.studiogan.fixes.overlay import Overlay


def _adapt_fid(module: ModuleType) -> None:
    fid: Any = module
    linalg = fid.linalg

    def sqrtm(matrix: Any, disp: bool = True) -> Any:
        root = linalg.sqrtm(matrix)
        return root if disp else (root, None)  # StudioGAN does not use the error estimate

    fid.linalg = Overlay(linalg, sqrtm=sqrtm)


FIX = Fix(
    name="sqrtm",
    why="SciPy's sqrtm has no disp any more",
    needed=lambda: at_least("scipy", "1.16"),
    after={"metrics.fid": _adapt_fid},
)
