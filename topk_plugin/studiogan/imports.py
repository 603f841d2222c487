"""Changes to StudioGAN's modules, made as they are imported.

StudioGAN's modules have names as general as ``config`` and ``utils``, so a name alone says little:
only modules whose file lies under the checkout's source folder are touched.
"""

import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from pathlib import Path
from types import ModuleType

Around = Callable[[], AbstractContextManager[None]]
After = Callable[[ModuleType], None]


class ImportHooks(MetaPathFinder):
    """Contexts around, and changes after, the import of a checkout's modules.

    Args:
        source: the checkout's source folder.
        around: module name -> contexts that are open while the module is executed.
        after: module name -> functions called with the module once it was executed.
    """

    def __init__(
        self,
        source: Path,
        around: Mapping[str, Sequence[Around]],
        after: Mapping[str, Sequence[After]],
    ) -> None:
        self._source = source.resolve()
        self._around, self._after = around, after

    def install(self) -> None:
        """Act on imports from now on."""
        sys.meta_path.insert(0, self)

    def find_spec(
        self,
        fullname: str,
        path: Sequence[str] | None,
        target: ModuleType | None = None,
    ) -> ModuleSpec | None:
        """The spec of a module of the checkout that has hooks; None for all others."""
        if fullname not in self._around and fullname not in self._after:
            return None
        spec = PathFinder.find_spec(fullname, path, target)
        if spec is None or not isinstance(spec.loader, SourceFileLoader) or spec.origin is None:
            return None
        if not Path(spec.origin).resolve().is_relative_to(self._source):
            return None
        spec.loader = _HookedLoader(
            fullname, spec.origin, self._around.get(fullname, ()), self._after.get(fullname, ())
        )
        return spec


class _HookedLoader(SourceFileLoader):
    def __init__(
        self, name: str, path: str, around: Sequence[Around], after: Sequence[After]
    ) -> None:
        super().__init__(name, path)
        self._around, self._after = around, after

    def exec_module(self, module: ModuleType) -> None:
        with ExitStack() as contexts:
            for around in self._around:
                contexts.enter_context(around())
            super().exec_module(module)
        for change in self._after:
            change(module)
