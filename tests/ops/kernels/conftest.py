"""Triton's interpreter runs the kernels on the CPU; it must be chosen before triton is imported."""

import importlib.util
import os
import sys

import pytest

_CHOSEN_IN_TIME = "triton" not in sys.modules or os.environ.get("TRITON_INTERPRET") == "1"
os.environ["TRITON_INTERPRET"] = "1"


@pytest.fixture(autouse=True)
def _interpreter() -> None:
    if importlib.util.find_spec("triton") is None:
        pytest.skip("triton is not installed")
    if not _CHOSEN_IN_TIME:
        pytest.skip("triton was imported without TRITON_INTERPRET=1 before these tests")
