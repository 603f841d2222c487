from pathlib import Path

import pytest

from tests.cli.helpers import Program


@pytest.fixture
def program(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Program:
    monkeypatch.setenv("TOPK_PLUGIN_CACHE", str(tmp_path / "cache"))
    return Program(tmp_path, capsys)
