import pickle
import zipfile
from collections import OrderedDict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from topk_plugin.base.errors import UserError
from topk_plugin.studiogan.fixes.weights_only import FIX, load_data


@pytest.fixture
def ckpt() -> Any:
    module = SimpleNamespace(torch=torch)
    FIX.after["utils.ckpt"](module)  # type: ignore[arg-type]
    return module


class Trap:
    """Runs code when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


@given(
    number=st.floats().map(np.float64) | st.floats(width=32).map(np.float32),
)
def test_numpys_numbers_are_loaded(
    number: np.floating, tmp_path_factory: pytest.TempPathFactory
) -> None:
    file = tmp_path_factory.mktemp("ckpt") / "model.pth"
    torch.save({"best_fid": number}, file)
    loaded = load_data(file)
    assert type(loaded["best_fid"]) is type(number)
    np.testing.assert_array_equal(loaded["best_fid"], number)


def test_what_studiogan_saves(ckpt: Any, tmp_path: Path) -> None:
    file = tmp_path / "model=D-current-weights-step=8.pth"
    weight = torch.nn.Parameter(torch.arange(3.0))
    optimizer = torch.optim.Adam([weight])
    weight.sum().backward()
    optimizer.step()
    states = {
        "state_dict": OrderedDict(weight=weight.detach()),
        "optimizer": optimizer.state_dict(),
        "run_name": "CIFAR10-BigGAN-train",
        "step": 8,
        "topk": 12.5,
        "aa_p": "N/A",
        "best_fid": np.float64(31.25),
        "lecam_emas": {"D_real": 0.5},
    }
    torch.save(states, file)
    loaded = ckpt.torch.load(file, map_location=lambda storage, location: storage)
    assert torch.equal(loaded["state_dict"]["weight"], weight)
    assert {k: loaded[k] for k in states if k not in ("state_dict", "optimizer")} == {
        k: states[k] for k in states if k not in ("state_dict", "optimizer")
    }
    optimizer.load_state_dict(loaded["optimizer"])
    assert ckpt.torch.Tensor is torch.Tensor  # all else is torch's
    assert ckpt.torch.cuda is torch.cuda


@pytest.mark.parametrize("numpy_1", [False, True])
def test_files_of_both_numpys(numpy_1: bool, tmp_path: Path) -> None:
    data = pickle.dumps({"best_fid": np.float64(31.25)}, protocol=2)
    old, new = b"numpy.core.multiarray", b"numpy._core.multiarray"
    data = data.replace(new, old) if numpy_1 else data.replace(b"numpy.core.", b"numpy._core.")
    assert (old if numpy_1 else new) in data

    file = tmp_path / "model.pth"
    torch.save({"best_fid": 0.0}, file)
    _replace_pickle(file, data)
    loaded = load_data(file)
    assert loaded == {"best_fid": 31.25}
    assert type(loaded["best_fid"]) is np.float64


def _replace_pickle(file: Path, data: bytes) -> None:
    """Put other pickled data into what torch.save wrote."""
    with zipfile.ZipFile(file) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(file, "w") as archive:
        for name, part in parts.items():
            archive.writestr(name, data if name.endswith("data.pkl") else part)


@pytest.mark.parametrize("asked", [{}, {"weights_only": False}, {"weights_only": None}])
def test_code_is_never_run(ckpt: Any, asked: dict[str, Any], tmp_path: Path) -> None:
    file, trace = tmp_path / "model.pth", tmp_path / "trace"
    torch.save({"best_fid": Trap(trace)}, file)
    with pytest.raises(UserError, match=r"model\.pth is damaged or holds more than tensors"):
        ckpt.torch.load(file, **asked)
    assert not trace.exists()
    torch.load(file, weights_only=False)
    assert trace.exists()  # the trap is one


@pytest.mark.parametrize(
    "other",
    [
        np.zeros(2),
        np.dtype(object),
        np.dtype([("a", object)]),
        np.str_("text"),
        np.int64(1),
        np.datetime64("2020-01-01"),
        Path("."),
    ],
)
def test_other_objects_are_refused(other: object, tmp_path: Path) -> None:
    file = tmp_path / "model.pth"
    torch.save({"best_fid": other}, file)
    with pytest.raises(UserError, match="foreign code"):
        load_data(file)


def test_a_damaged_file_is_refused_in_words(tmp_path: Path) -> None:
    file = tmp_path / "model.pth"
    file.write_bytes(b"no pickle at all")
    with pytest.raises(UserError, match="is damaged or"):
        load_data(file)


def test_what_others_have_allowed_stays_allowed(tmp_path: Path) -> None:
    before = torch.serialization.get_safe_globals()
    torch.serialization.add_safe_globals([Trap])
    try:
        allowed = set(torch.serialization.get_safe_globals())
        file = tmp_path / "model.pth"
        torch.save({"best_fid": np.float64(1)}, file)
        load_data(file)
        assert set(torch.serialization.get_safe_globals()) == allowed
        file.write_bytes(b"")
        with pytest.raises((UserError, EOFError)):
            load_data(file)
        assert set(torch.serialization.get_safe_globals()) == allowed
    finally:
        torch.serialization.clear_safe_globals()
        torch.serialization.add_safe_globals(before)
