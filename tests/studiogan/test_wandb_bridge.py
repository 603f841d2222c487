"""TensorBoard always, wandb where it is set up."""

import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL.Image import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from topk_plugin.studiogan.wandb_bridge import SETTINGS, Picture, WandbBridge, bridge, tag

NAME = "CIFAR10-BigGAN-train-2026_01_01_00_00_00"


@pytest.fixture(autouse=True)
def no_account(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*SETTINGS, "WANDB_BASE_URL", "NETRC"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))


class Package(ModuleType):
    """In place of the package wandb: remembers what it is told."""

    def __init__(self) -> None:
        super().__init__("wandb")
        self.__spec__: Any = object()  # an installed package has one
        self.calls: list[tuple[str, Any]] = []

    def init(self, **options: Any) -> None:
        self.calls.append(("init", options))

    def log(self, values: Any, step: int) -> None:
        self.calls.append(("log", (values, step)))

    def Image(self, data: Any) -> Any:
        assert isinstance(data, Image)
        return ("image", data.size)

    def finish(self) -> None:
        self.calls.append(("finish", None))

    def Histogram(self) -> str:
        return "wandb's own"


@pytest.fixture
def package(monkeypatch: pytest.MonkeyPatch) -> Package:
    package = Package()
    monkeypatch.setitem(sys.modules, "wandb", package)
    return package


def started(tmp_path: Path, resume_step: int | None = None) -> WandbBridge:
    wandb = WandbBridge()
    wandb.resume_step = resume_step
    wandb.init(project="p", entity=None, name=NAME, dir=str(tmp_path), resume=False)
    return wandb


def folder(tmp_path: Path) -> Path:
    return tmp_path / "tensorboard" / NAME


def events(tmp_path: Path) -> EventAccumulator:
    return EventAccumulator(str(folder(tmp_path)), purge_orphaned_data=True).Reload()


def lines(tmp_path: Path) -> list[dict[str, Any]]:
    text = (folder(tmp_path) / "metrics.jsonl").read_text()
    return [json.loads(line) for line in text.splitlines()]


def test_without_an_account_there_is_tensorboard_only(
    tmp_path: Path, package: Package, capsys: pytest.CaptureFixture[str]
) -> None:
    wandb = started(tmp_path)
    said = capsys.readouterr().out.splitlines()
    assert len(said) == 1
    assert said[0].startswith(f"Logging to TensorBoard only ({folder(tmp_path)}): wandb has no")
    wandb.log({"gen_loss": 1.5, "dis_loss": np.float32(2), "cls_loss": torch.tensor(3.0)}, step=10)
    wandb.log({"generated_images": wandb.Image(torch.zeros(9, 3, 4, 6))}, step=10)
    wandb.log({"FID score": np.float64(30), "r1_reg_loss": float("nan"), "text": "N/A"}, step=20)
    assert wandb.run_log is not None
    wandb.run_log.scalars(20, {"topk/k": 12.0})  # as the adapter does
    wandb.finish()
    found = events(tmp_path)
    scalars = {t: [(e.step, e.value) for e in found.Scalars(t)] for t in found.Tags()["scalars"]}
    assert scalars.pop("studiogan/r1_reg_loss")[0][0] == 20
    assert scalars == {
        "loss/generator": [(10, 1.5)],
        "loss/discriminator": [(10, 2.0)],
        "loss/conditional": [(10, 3.0)],
        "metric/fid": [(20, 30.0)],
        "topk/k": [(20, 12.0)],
    }
    (picture,) = found.Images("samples/generated_images")
    assert (picture.step, picture.height, picture.width) == (10, 2 + 2 * 6, 2 + 8 * 8)
    for line in (logged := lines(tmp_path)):
        del line["time"]
    assert logged == [
        {"step": 10, "loss/generator": 1.5, "loss/discriminator": 2.0, "loss/conditional": 3.0},
        {"step": 20, "metric/fid": 30.0, "studiogan/r1_reg_loss": None},
        {"step": 20, "topk/k": 12.0},
    ]
    assert package.calls == []
    assert wandb.run_log is None


@pytest.mark.parametrize("name", SETTINGS)
def test_what_is_set_up_gets_all_as_well(
    name: str,
    tmp_path: Path,
    package: Package,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv(name, "offline")
    wandb = started(tmp_path)
    assert "and to wandb" in capsys.readouterr().out
    wandb.log({"gen_loss": 1.5, "text": "N/A", "new": wandb.Image(torch.zeros(2, 3, 4, 4))}, step=3)
    wandb.finish()
    wandb.finish()
    options = {
        "project": "p",
        "entity": None,
        "name": NAME,
        "dir": str(tmp_path),
        "resume": False,
    }
    logged = {"gen_loss": 1.5, "text": "N/A", "new": ("image", (14, 8))}
    assert package.calls == [("init", options), ("log", (logged, 3)), ("finish", None)]
    assert events(tmp_path).Scalars("loss/generator")[0].value == 1.5


@pytest.mark.parametrize(
    ("text", "host", "has"),
    [
        ("machine api.wandb.ai\n  login user\n  password secret\n", None, True),
        ("machine api.forge.coreweave.com\n  login user\n  password secret\n", None, True),
        ("machine wandb.here:8080\n  login user\n  password s\n", "http://wandb.here:8080", True),
        ("machine api.wandb.ai login user password s\n", "http://wandb.here:8080", False),
        ("machine example.org login user password s\ndefault login a password b\n", None, False),
        ("nonsense", None, False),
    ],
)
def test_an_account_is_known_by_its_key(
    text: str,
    host: str | None,
    has: bool,
    tmp_path: Path,
    package: Package,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if host is not None:
        monkeypatch.setenv("WANDB_BASE_URL", host)
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / ".netrc").write_text(text)
    started(tmp_path).finish()
    assert bool(package.calls) == has
    monkeypatch.setenv("NETRC", str(tmp_path / "none"))
    package.calls.clear()
    started(tmp_path).finish()
    assert package.calls == []


def test_an_account_without_the_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "secret")
    monkeypatch.setitem(sys.modules, "wandb", None)
    started(tmp_path).finish()
    assert "but not installed: pip install wandb" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (RuntimeError("Timed out\nConsider increasing"), "does not start (Timed out); WANDB_MODE="),
        (ValueError(), "does not start (ValueError); WANDB_MODE="),
    ],
)
def test_a_wandb_that_does_not_start_leaves_tensorboard(
    error: Exception,
    said: str,
    tmp_path: Path,
    package: Package,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def fail(**_: Any) -> None:
        raise error

    monkeypatch.setenv("WANDB_API_KEY", "secret")
    monkeypatch.setattr(package, "init", fail)
    wandb = started(tmp_path)
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith("Logging to TensorBoard only")
    assert said in line
    wandb.log({"gen_loss": 1.5}, step=3)
    wandb.finish()
    assert package.calls == []
    assert events(tmp_path).Scalars("loss/generator")[0].value == 1.5


def test_a_resumed_run_forgets_what_came_later(tmp_path: Path) -> None:
    wandb = started(tmp_path)
    for step in (10, 20, 30):
        wandb.log({"gen_loss": step}, step=step)
    wandb.finish()
    wandb = started(tmp_path, resume_step=20)
    wandb.log({"gen_loss": 31}, step=30)
    wandb.finish()
    steps = {10: 10, 20: 20, 30: 31}
    assert {e.step: e.value for e in events(tmp_path).Scalars("loss/generator")} == steps
    assert {line["step"]: line["loss/generator"] for line in lines(tmp_path)} == steps


def test_a_process_without_a_run_logs_nothing(package: Package) -> None:
    wandb = WandbBridge()
    wandb.log({"gen_loss": 1.0}, step=1)
    wandb.finish()
    assert package.calls == []


def test_all_else_is_the_packages(package: Package, monkeypatch: pytest.MonkeyPatch) -> None:
    assert bridge() is bridge()
    assert bridge().Histogram() == "wandb's own"
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(AttributeError, match=r"wandb\.Histogram needs the package wandb"):
        _ = bridge().Histogram
    assert not hasattr(bridge(), "__path__")


@given(st.integers(1, 20), st.integers(1, 6), st.floats(-3, 3, width=32))
def test_a_batch_becomes_one_grid(count: int, size: int, value: float) -> None:
    grid = Picture(torch.full((count, 3, size, size), value, dtype=torch.float64)).grid
    rows, columns = -(-count // 8), min(count, 8)
    if count == 1:
        assert grid.shape == (3, size, size)  # torchvision frames no single picture
    else:
        assert grid.shape == (3, 2 + rows * (size + 2), 2 + columns * (size + 2))
    assert 0 <= grid.min() <= grid.max() <= 1
    shown = grid[:, size // 2 + (count > 1) * 2, size // 2 + (count > 1) * 2]
    torch.testing.assert_close(shown, torch.full((3,), min(max((value + 1) / 2, 0.0), 1.0)))


@given(st.text())
def test_tags_of_other_names(name: str) -> None:
    assert tag(name) == f"studiogan/{name}" or "/" in tag(name)
    assert tag("Improved Precision") == "metric/precision"
