"""What StudioGAN's ``import wandb`` gets."""

import builtins
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from topk_plugin.studiogan.fixes.wandb import FIX
from topk_plugin.studiogan.imports import ImportHooks
from topk_plugin.studiogan.wandb_bridge import bridge


@pytest.fixture
def modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A source folder whose ``loader`` imports ``worker``, and both a library and wandb."""
    library = "try:\n    import wandb\nexcept ImportError:\n    wandb = None\n"
    (tmp_path / "a_library.py").write_text(library)
    (tmp_path / "worker.py").write_text("import a_library, wandb\n")
    (tmp_path / "loader.py").write_text("import wandb\nimport worker\n")
    monkeypatch.syspath_prepend(tmp_path)
    for name in ("loader", "worker", "a_library"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.setattr(sys, "meta_path", list(sys.meta_path))
    return tmp_path


@pytest.mark.parametrize("package", [None, SimpleNamespace()])
def test_only_studiogans_modules_get_the_bridge(
    package: object, modules: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "wandb", package)  # None: not installed
    ImportHooks(modules, {name: [act] for name, act in FIX.around.items()}, {}).install()
    import_ = builtins.__import__
    import loader

    assert loader.wandb is loader.worker.wandb is bridge()
    assert loader.worker.a_library.wandb is package
    assert sys.modules["wandb"] is package
    assert builtins.__import__ is import_


def test_it_is_undone_after_a_failure() -> None:
    import_ = builtins.__import__
    with pytest.raises(ZeroDivisionError), FIX.around["worker"]():
        raise ZeroDivisionError
    assert builtins.__import__ is import_
