"""Training is bit-identical to the code before the engine was rebuilt (see digests.py)."""

import json

import pytest

from tests.engine.digests import BF16, CASES, FILE, digest

BEFORE = json.loads(FILE.read_text(encoding="utf-8")) if FILE.exists() else {}


@pytest.mark.parametrize("name", CASES)
def test_a_config_trains_as_before(name):
    assert digest(*CASES[name]) == BEFORE[name]


@pytest.mark.parametrize("name", BF16)
def test_a_config_trains_as_before_in_bf16(name):
    assert digest(*CASES[name], precision="bf16") == BEFORE[f"{name}, bf16"]
