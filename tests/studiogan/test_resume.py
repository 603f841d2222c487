"""How far k had fallen, judged from StudioGAN's checkpoints."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from topk_plugin import KSchedule
from topk_plugin.studiogan.resume import STATE_KEY, Resumed, Resumption, epochs_without_state

SCHEDULE = KSchedule(0.9, 0.5)  # at its floor from epoch 7 on


def studiogans_k(epochs: int, batch: int, gamma: float, nu: float) -> int | float:
    """What StudioGAN's own schedule has after some epochs: a float until it meets the floor."""
    k: int | float = batch
    for _ in range(epochs):
        k = max(k * gamma, int(batch * nu))
    return k


@pytest.mark.parametrize(
    ("k", "epoch", "batch", "expected"),
    [
        ("initialize", 0, 16, 0),  # -freezeD
        ("initialize", 40, 16, 0),  # written by a StudioGAN that had no top-k yet
        (16, 0, 16, 0),  # in the first epoch
        (16, 40, 16, 0),  # top-k was off for 40 epochs
        (64, 3, 16, 0),  # ... on another batch size
        (14.4, 1, 16, 1),
        (14.4, 1, 64, 1),  # falling, and resumed on another batch size
        (8, 7, 16, 7),  # at the floor
        (8, 40, 16, 40),
        (8, 40, 64, 40),  # at the floor, and resumed on another batch size
        (8, 6, 16, 0),  # an integer, too early for the floor
    ],
)
def test_epochs_without_state(k: Any, epoch: int, batch: int, expected: int) -> None:
    assert epochs_without_state(Resumed(1000, epoch, k, None), SCHEDULE, batch) == expected


@given(
    st.integers(0, 200),
    st.integers(1, 512),
    st.floats(0.5, 0.999),
    st.floats(0.05, 0.95),
    st.integers(1, 512),
)
def test_what_studiogan_annealed_goes_on_at_the_same_epoch(
    epochs: int, batch: int, gamma: float, nu: float, batch_now: int
) -> None:
    """Whatever the batch size is now, as long as its whole is not the old floor."""
    schedule = KSchedule(gamma, nu)
    k = studiogans_k(epochs, batch, gamma, nu)
    resumed = Resumed(10 * epochs, epochs, k, None)
    found = epochs_without_state(resumed, schedule, batch_now)
    # int(batch * nu) may lie under nu * batch, so StudioGAN meets its floor later than the
    # schedule does, never earlier
    if not (isinstance(k, int) and k == batch_now):
        assert found == epochs
    assert 0 <= schedule.k(found, batch_now) <= batch_now


@given(st.integers(0, 500), st.integers(1, 512), st.floats(0.5, 0.999), st.floats(0.05, 0.95))
def test_a_run_without_top_k_starts_to_fall_now(
    epochs: int, batch: int, gamma: float, nu: float
) -> None:
    resumed = Resumed(10 * epochs, epochs, batch, None)
    assert epochs_without_state(resumed, KSchedule(gamma, nu), batch) == 0


# --- what StudioGAN has just loaded ------------------------------------------------------------


def write_critic(folder: Path, when: str, states: dict[str, Any]) -> None:
    folder.mkdir(exist_ok=True)
    torch.save(states, folder / f"model=D-{when}-weights-step=7.pth")


def watched(result: tuple[Any, ...], folder: Path, *, best: bool = False, freeze: int = -1) -> Any:
    """What is remembered of a load by StudioGAN that gives ``result``."""
    calls = []

    def load_StudioGAN_ckpts(**arguments: Any) -> tuple[Any, ...]:
        calls.append(arguments)
        return result

    ckpt = SimpleNamespace(load_StudioGAN_ckpts=load_StudioGAN_ckpts, torch=torch)
    resumption = Resumption()
    resumption.watch(ckpt)
    assert resumption.resumed is None
    arguments = {
        "ckpt_dir": str(folder),
        "load_best": best,
        "RUN": SimpleNamespace(freezeD=freeze),
        "Gen": object(),
    }
    assert ckpt.load_StudioGAN_ckpts(**arguments) is result
    assert calls == [arguments]
    return resumption.resumed


LOADED = ("name", 7, 2, 14.4, None, 0, None, None, None, None)


def test_the_state_is_read_from_the_checkpoint_that_studiogan_reads(tmp_path: Path) -> None:
    folder = tmp_path / "run [1] *"  # StudioGAN's names may hold what glob reads as a pattern
    write_critic(folder, "current", {"step": 7, STATE_KEY: {"steps": 7, "epochs": 2}})
    write_critic(folder, "best", {"step": 5, STATE_KEY: {"steps": 5, "epochs": 1}})
    current = watched(LOADED, folder)
    assert current == Resumed(7, 2, 14.4, {"steps": 7, "epochs": 2})
    assert watched(LOADED, folder, best=True).state == {"steps": 5, "epochs": 1}


def test_a_checkpoint_without_the_plugin_has_no_state(tmp_path: Path) -> None:
    write_critic(tmp_path, "current", {"step": 7, "topk": 14.4, "best_fid": None})
    assert watched(LOADED, tmp_path) == Resumed(7, 2, 14.4, None)


def test_a_frozen_critic_is_the_start_of_another_training(tmp_path: Path) -> None:
    write_critic(tmp_path, "current", {STATE_KEY: {"steps": 7, "epochs": 2}})
    fresh = ("name", 0, 0, "initialize", None, 0, None, None, None, None)
    assert watched(fresh, tmp_path, freeze=2) == Resumed(0, 0, "initialize", None)


def test_a_failed_load_is_not_remembered() -> None:
    def load_StudioGAN_ckpts(**_: Any) -> None:
        raise IndexError("no such checkpoint")

    ckpt = SimpleNamespace(load_StudioGAN_ckpts=load_StudioGAN_ckpts, torch=torch)
    resumption = Resumption()
    resumption.watch(ckpt)
    with pytest.raises(IndexError):
        ckpt.load_StudioGAN_ckpts(ckpt_dir="nowhere", load_best=False, RUN=None)
    assert resumption.resumed is None
