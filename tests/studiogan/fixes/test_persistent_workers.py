import warnings
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader

from topk_plugin.studiogan.fixes.persistent_workers import FIX


@pytest.fixture
def loader() -> Any:
    module = SimpleNamespace(DataLoader=DataLoader)
    FIX.after["loader"](module)  # type: ignore[arg-type]
    return module


def test_torch_refuses_what_studiogan_asks_for() -> None:
    with pytest.raises(ValueError, match="persistent_workers"):
        DataLoader(dataset=range(4), num_workers=0, persistent_workers=True)


def test_without_workers_nothing_persists(loader: Any) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        made = loader.DataLoader(
            dataset=range(5),
            batch_size=2,
            shuffle=False,
            pin_memory=True,
            num_workers=0,
            sampler=None,
            drop_last=True,
            persistent_workers=True,
        )
        assert torch.cat(list(made)).tolist() == [0, 1, 2, 3]
    assert not made.persistent_workers
    assert made.pin_memory == torch.cuda.is_available()


def test_with_workers_they_persist(loader: Any) -> None:
    made = loader.DataLoader(dataset=range(4), num_workers=2, persistent_workers=True)
    assert made.persistent_workers
    assert made.num_workers == 2
