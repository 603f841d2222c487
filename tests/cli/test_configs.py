"""`topk-plugin configs`, and -cfg with a name instead of a path."""

from pathlib import Path

import pytest

from tests.cli.helpers import ROOT, Program
from topk_plugin.base.errors import UserError
from topk_plugin.engine.shipped_configs import config_file

SHIPPED = [path.relative_to(ROOT / "configs") for path in ROOT.glob("configs/*/*.yaml")]


def test_configs_are_listed_and_copied(program: Program, tmp_path: Path) -> None:
    listed = program("configs").out.split()
    assert listed == sorted(path.with_suffix("").as_posix() for path in SHIPPED)
    assert program("configs", listed[3], "-save", tmp_path / "mine").status == 0
    copy = tmp_path / "mine" / f"{listed[3]}.yaml"
    assert copy.read_bytes() == (ROOT / "configs" / f"{listed[3]}.yaml").read_bytes()
    copy.write_text("changed")
    again = program("configs", "-save", tmp_path / "mine")
    assert again.status == 2
    assert "is there already" in again.err
    assert copy.read_text() == "changed"
    assert list((tmp_path / "mine").rglob("*.yaml")) == [copy]  # all or none
    assert "no config 'x'" in program("configs", "x").err


def test_a_name_is_found_from_any_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    expected = ROOT / "configs" / "Digits" / "BigGAN-TopK.yaml"
    for given in (
        "Digits/BigGAN-TopK",
        "Digits/BigGAN-TopK.yaml",
        "configs/Digits/BigGAN-TopK.yaml",
    ):
        assert config_file(Path(given)).samefile(expected)
    mine = tmp_path / "Digits" / "BigGAN-TopK.yaml"
    mine.parent.mkdir()
    mine.write_text("")
    assert config_file(Path("Digits/BigGAN-TopK.yaml")).samefile(mine)
    with pytest.raises(UserError, match=r"did you mean CIFAR10/BigGAN-TopK\?"):
        config_file(Path("CIFAR10/BigGAN-TopKK.yaml"))
    for outside in ("../configs/Digits/BigGAN", "/Digits/BigGAN", "nothing/like/it"):
        with pytest.raises(UserError, match="no config of that name"):
            config_file(Path(outside))
