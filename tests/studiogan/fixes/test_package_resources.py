import importlib.util
import sys
from types import ModuleType

import pytest

from topk_plugin.studiogan.fixes.package_resources import FIX, NAME, USERS


def test_is_there_for_its_users_only_and_is_gone_afterwards(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delitem(sys.modules, NAME, raising=False)
    before = dict(sys.modules)
    for user in USERS:
        with FIX.around[user]():
            from pkg_resources import parse_version

            assert parse_version("1.11.0a") < parse_version("1.11") < parse_version("2.15.0+cpu")
        assert sys.modules == before
        with pytest.raises(ZeroDivisionError), FIX.around[user]():
            raise ZeroDivisionError
        assert sys.modules == before


def test_is_needed_where_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, NAME, raising=False)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert FIX.needed()
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    assert not FIX.needed()
    monkeypatch.setitem(sys.modules, NAME, ModuleType(NAME))  # find_spec fails on one without spec
    assert not FIX.needed()
