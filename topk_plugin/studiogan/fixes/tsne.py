"""scikit-learn 1.7's t-SNE has no ``n_iter``, which StudioGAN's -tsne gives."""

from types import ModuleType
from typing import Any

from topk_plugin.studiogan.fixes.fix import Fix
from topk_plugin.studiogan.fixes.installed import at_least


def _adapt_worker(module: ModuleType) -> None:
    worker: Any = module
    if not hasattr(worker, "TSNE"):
        return  # a StudioGAN without this analysis
    original = worker.TSNE

    def tsne(*, n_iter: int, **options: Any) -> Any:
        return original(max_iter=n_iter, **options)

    worker.TSNE = tsne


FIX = Fix(
    name="tsne",
    why="scikit-learn's TSNE calls n_iter max_iter",
    needed=lambda: at_least("scikit-learn", "1.5"),
    after={"worker": _adapt_worker},
)
