"""scipy.linalg.sqrtm has lost ``disp``, with which StudioGAN's FID calls it."""

from types import ModuleType, SimpleNamespace
from typing import Any

from topk_plugin.studiogan.fixes.fix import Fix


def _needed() -> bool:
    import scipy

    return tuple(map(int, scipy.__version__.split(".")[:2])) >= (1, 16)  # deprecated since


def _adapt_fid(module: ModuleType) -> None:
    fid: Any = module
    linalg = fid.linalg

    def sqrtm(matrix: Any, disp: bool = True) -> Any:
        root = linalg.sqrtm(matrix)
        return root if disp else (root, None)  # StudioGAN does not use the error estimate

    fid.linalg = SimpleNamespace(**{**vars(linalg), "sqrtm": sqrtm})


FIX = Fix(
    name="sqrtm",
    why="SciPy's sqrtm has no disp any more",
    needed=_needed,
    after={"metrics.fid": _adapt_fid},
)
