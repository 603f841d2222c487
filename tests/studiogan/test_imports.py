"""Changes to a checkout's modules as they are imported."""

import contextlib
import importlib
import inspect
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from topk_plugin.studiogan.imports import ImportHooks

# Names that nothing else has, so that no other test's modules are met.
PLAIN, OTHER = "hooked_config", "hooked_loader"
NESTED = "hooked_utils.style_ops.conv"


class Checkout:
    """A source folder on ``sys.path`` whose modules write down when they are executed."""

    def __init__(self, folder: Path, events: list[str]) -> None:
        self.source, self.events = folder / "src", events
        self.write(PLAIN, f"from {OTHER} import VALUE")
        self.write(OTHER, "VALUE = 1")
        self.write(NESTED, "def conv():\n    return 'plain'")

    def write(self, name: str, text: str) -> Path:
        path = self.source / (name.replace(".", "/") + ".py")
        path.parent.mkdir(parents=True, exist_ok=True)
        note = f"import sys; sys.hooked_events.append('run {name}')"
        path.write_text(f"{note}\n{text}\nsys.hooked_events.append('ran {name}')\n")
        importlib.invalidate_caches()
        return path

    def context(self, name: str):
        @contextlib.contextmanager
        def opened() -> Iterator[None]:
            self.events.append(f"open {name}")
            try:
                yield
            finally:
                self.events.append(f"close {name}")

        return opened

    def after(self, module: ModuleType) -> None:
        self.events.append(f"after {module.__name__}")

    def hook(self, *, around: dict | None = None, after: dict | None = None) -> None:
        ImportHooks(self.source, around or {}, after or {}).install()


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Checkout]:
    events: list[str] = []
    monkeypatch.setattr(sys, "hooked_events", events, raising=False)
    monkeypatch.setattr(sys, "meta_path", list(sys.meta_path))
    made = Checkout(tmp_path, events)
    monkeypatch.syspath_prepend(str(made.source))
    yield made
    for name in [name for name in sys.modules if name.startswith("hooked_")]:
        del sys.modules[name]


def test_contexts_are_open_exactly_while_the_module_is_executed(checkout: Checkout) -> None:
    checkout.hook(around={PLAIN: [checkout.context("outer"), checkout.context("inner")]})
    assert importlib.import_module(PLAIN).VALUE == 1
    assert checkout.events == [
        "open outer",
        "open inner",
        f"run {PLAIN}",
        f"run {OTHER}",
        f"ran {OTHER}",
        f"ran {PLAIN}",
        "close inner",
        "close outer",
    ]


def test_changes_come_after_the_contexts_once_and_in_order(checkout: Checkout) -> None:
    def change(module: ModuleType) -> None:
        checkout.events.append("change")
        module.VALUE = 2

    checkout.hook(around={OTHER: [checkout.context("it")]}, after={OTHER: [checkout.after, change]})
    for _ in range(2):
        assert importlib.import_module(OTHER).VALUE == 2
    assert checkout.events == [
        "open it",
        f"run {OTHER}",
        f"ran {OTHER}",
        "close it",
        f"after {OTHER}",
        "change",
    ]


def test_who_imports_a_changed_module_sees_the_change(checkout: Checkout) -> None:
    checkout.hook(after={OTHER: [lambda module: setattr(module, "VALUE", 2)]})
    assert importlib.import_module(PLAIN).VALUE == 2


def test_an_error_in_the_module_closes_the_contexts_and_changes_nothing(
    checkout: Checkout,
) -> None:
    checkout.write(OTHER, "raise ArithmeticError('at import')")
    checkout.hook(
        around={OTHER: [checkout.context("a"), checkout.context("b")]},
        after={OTHER: [checkout.after]},
    )
    with pytest.raises(ArithmeticError, match="at import"):
        importlib.import_module(OTHER)
    assert checkout.events == ["open a", "open b", f"run {OTHER}", "close b", "close a"]
    assert OTHER not in sys.modules
    checkout.events.clear()
    checkout.write(OTHER, "VALUE = 3  # mended")
    assert importlib.import_module(OTHER).VALUE == 3
    assert checkout.events[-1] == f"after {OTHER}"


def test_an_error_in_a_change_is_an_error_of_the_import(checkout: Checkout) -> None:
    def refuse(module: ModuleType) -> None:
        raise ValueError("another version")

    checkout.hook(after={OTHER: [refuse]})
    with pytest.raises(ValueError, match="another version"):
        importlib.import_module(PLAIN)
    assert OTHER not in sys.modules


def test_modules_of_the_same_name_elsewhere_are_untouched(
    checkout: Checkout, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere = Checkout(tmp_path / "elsewhere", checkout.events)
    elsewhere.write(OTHER, "VALUE = 'elsewhere'")
    monkeypatch.syspath_prepend(str(elsewhere.source))
    checkout.hook(around={OTHER: [checkout.context("it")]}, after={OTHER: [checkout.after]})
    assert importlib.import_module(OTHER).VALUE == "elsewhere"
    assert checkout.events == [f"run {OTHER}", f"ran {OTHER}"]


def test_a_folder_whose_name_begins_the_same_is_elsewhere(
    checkout: Checkout, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "src2").mkdir()
    (tmp_path / "src2" / f"{OTHER}.py").write_text("VALUE = 'src2'")
    monkeypatch.syspath_prepend(str(tmp_path / "src2"))
    checkout.hook(after={OTHER: [checkout.after]})
    assert importlib.import_module(OTHER).VALUE == "src2"
    assert checkout.events == []


def test_a_checkout_reached_through_a_link_is_the_checkout(
    checkout: Checkout, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "link").symlink_to(checkout.source)
    monkeypatch.syspath_prepend(str(tmp_path / "link"))
    checkout.hook(after={OTHER: [checkout.after]})
    importlib.import_module(OTHER)
    assert checkout.events[-1] == f"after {OTHER}"


def test_packages_without_an_init_file(checkout: Checkout) -> None:
    """StudioGAN's ``utils`` and ``utils.style_ops`` are such."""
    checkout.hook(around={NESTED: [checkout.context("it")]}, after={NESTED: [checkout.after]})
    module = importlib.import_module(NESTED)
    assert checkout.events == [
        "open it",
        f"run {NESTED}",
        f"ran {NESTED}",
        "close it",
        f"after {NESTED}",
    ]
    assert sys.modules["hooked_utils.style_ops"].conv is module


def test_a_package_with_an_init_file(checkout: Checkout) -> None:
    checkout.write("hooked_package.__init__", "from hooked_package import part")
    checkout.write("hooked_package.part", "VALUE = 4")
    checkout.hook(after={"hooked_package": [checkout.after], "hooked_package.part": []})
    package = importlib.import_module("hooked_package")
    assert package.part.VALUE == 4
    assert package.__path__ == [str(checkout.source / "hooked_package")]
    assert checkout.events[-1] == "after hooked_package"


def test_a_hooked_module_is_an_ordinary_one(checkout: Checkout) -> None:
    checkout.hook(around={NESTED: [checkout.context("it")]})
    module = importlib.import_module(NESTED)
    assert inspect.getsource(module.conv) == "def conv():\n    return 'plain'\n"
    assert inspect.getsourcefile(module) == module.__file__ == module.__spec__.origin
    assert importlib.util.find_spec(NESTED).loader.get_source(NESTED).startswith("import sys")


def test_modules_without_hooks_and_missing_ones_are_left_to_python(checkout: Checkout) -> None:
    checkout.hook(after={"hooked_missing": [checkout.after], "sys": [checkout.after]})
    finder = sys.meta_path[0]
    assert finder.find_spec(PLAIN, None) is None
    assert finder.find_spec("sys", None) is None
    with pytest.raises(ModuleNotFoundError, match="hooked_missing"):
        importlib.import_module("hooked_missing")
    assert checkout.events == []
