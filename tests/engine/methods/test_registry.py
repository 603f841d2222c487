"""The registry, and methods that installed packages bring."""

import sys
from pathlib import Path

import pytest
import torch

from tests.engine.tiny import tiny_config, tiny_images
from topk_plugin.base.errors import UserError
from topk_plugin.engine.config.table import Table, table
from topk_plugin.engine.keys.key import Key, When, switch
from topk_plugin.engine.keys.rules import Number
from topk_plugin.engine.methods import registry
from topk_plugin.engine.methods.method import Method, Needs
from topk_plugin.engine.trainer import Trainer

MODULE = """
from topk_plugin.engine.keys.key import Key, When, switch
from topk_plugin.engine.keys.rules import Number
from topk_plugin.engine.methods.method import Method, Term

class Shrink(Term):
    def __init__(self, settings):
        self.weight = settings.LOSS.shrink_lambda
    def generator_terms(self, step):
        yield self.weight * step.fakes.images.square().mean()

SHRINK = Method(
    "shrink",
    on=When("LOSS", "apply_shrink"),
    term=Shrink,
    keys=(
        switch("LOSS", "apply_shrink", ours=True),
        Key("LOSS", "shrink_lambda", None, Number(at_least=0.0), ours=True, needed=True),
    ),
)
NOTHING = 3
"""


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Installs a package with one entry point; its value is what is given."""

    def install(value: str) -> None:
        (tmp_path / "shrinking.py").write_text(MODULE)
        info = tmp_path / "shrinking-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: shrinking\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(f"[{registry.ENTRY_POINTS}]\nshrink = {value}\n")
        registry._installed.cache_clear()

    monkeypatch.syspath_prepend(str(tmp_path))
    yield install
    registry._installed.cache_clear()
    sys.modules.pop("shrinking", None)


def test_a_method_of_an_installed_package_trains(installed) -> None:
    installed("shrinking:SHRINK")
    sizes = []
    for strength in (0.0, 1000.0):
        config = tiny_config({"LOSS": {"apply_shrink": True, "shrink_lambda": strength}})
        trainer = Trainer(config, tiny_images(), seed=0, device=torch.device("cpu"))
        for _ in range(12):
            trainer.step()
        sizes.append(trainer.last_fakes.square().mean())
    assert sizes[1] < 0.9 * sizes[0]


@pytest.mark.parametrize(
    ("value", "sentence"),
    [
        ("shrinking:MISSING", "the method 'shrink' of shrinking can't be imported"),
        ("nowhere:SHRINK", "the method 'shrink' of shrinking can't be imported"),
        ("shrinking:NOTHING", "'shrink' of shrinking leads to int, not to a Method"),
    ],
)
def test_a_broken_package_is_named(installed, value: str, sentence: str) -> None:
    installed(value)
    with pytest.raises(UserError, match=sentence):
        tiny_config()


def test_a_name_can_be_registered_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_registered", [])
    method = registry.register(Method("mine", on=lambda settings: False))
    with pytest.raises(ValueError, match="a method 'mine' already"):
        registry.register(method)
    registry.unregister(method)
    registry.register(method)


def changed_table(monkeypatch: pytest.MonkeyPatch, *keys: Key) -> Table:
    method = Method("mine", on=When("LOSS", "apply_mine"), keys=keys)
    monkeypatch.setattr(registry, "_registered", [method])
    return table()


def test_a_key_that_is_another_methods_must_be_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    other = Key("LOSS", "gp_lambda", None, Number(above=5.0))
    with pytest.raises(ValueError, match=r"LOSS\.gp_lambda is declared twice"):
        changed_table(monkeypatch, switch("LOSS", "apply_mine"), other)


def test_a_key_is_read_where_a_method_that_brings_it_is_on() -> None:
    keys = table()
    assert keys.key("LOSS", "temperature").read_when == When("MODEL", "d_cond_mtd", ("2C", "D2DCE"))
    assert keys.key("LOSS", "topk_nu").read_when == When("LOSS", "apply_topk")
    assert keys.key("MODEL", "g_shared_dim").read_when == When("MODEL", "backbone", ("big_resnet",))
    assert keys.key("LOSS", "apply_topk").read_when is None


def test_needs_are_united() -> None:
    both = Needs(nearby=0.1) | Needs(second_derivatives=True)
    assert both == Needs(nearby=0.1, second_derivatives=True)
    with pytest.raises(ValueError, match=r"at both 0\.1 and 0\.2"):
        _ = both | Needs(nearby=0.2)
