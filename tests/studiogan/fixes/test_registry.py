"""Which fixes act."""

import pytest

from topk_plugin.base.errors import UserError
from topk_plugin.studiogan.fixes.installed import at_least
from topk_plugin.studiogan.fixes.registry import FIXES, SWITCH, active_fixes


def test_an_unknown_switch_is_refused_with_the_known_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(SWITCH, "cpu,gravity")
    with pytest.raises(
        UserError, match=r"names gravity, which is no fix; choose from .*weights_only"
    ):
        active_fixes()


def test_each_fix_has_a_switch_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    names = {fix.name for fix in FIXES}
    assert len(names) == len(FIXES)
    assert names >= {
        "pkg_resources",
        "cpu",
        "amp",
        "wandb",
        "persistent_workers",
        "no_metrics",
        "weights_only",
        "sqrtm",
        "tsne",
        "betas",
    }
    monkeypatch.delenv(SWITCH, raising=False)
    needed = {fix.name for fix in active_fixes()}
    assert needed == {fix.name for fix in FIXES if fix.needed()}
    for name in names:
        monkeypatch.setenv(SWITCH, f" {name},")
        assert {fix.name for fix in active_fixes()} == needed - {name}


def test_versions_of_packages() -> None:
    assert at_least("torch", "2.4")
    assert not at_least("torch", "1000")
    assert not at_least("there-is-no-such-package", "0")
