"""How far a run is, judged from StudioGAN's checkpoints."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from topk_plugin.gate.progress import Progress
from topk_plugin.studiogan.resume import (
    STATE_KEY,
    Resumed,
    Resumption,
    progress_of,
)


@given(st.integers(0, 10**6), st.integers(0, 1000), st.integers(1, 4))
def test_without_the_plugins_state_studiogans_counters_say_it(
    step: int, epoch: int, updates: int
) -> None:
    """Whether top-k was on or off so far: it starts where it would have been."""
    assert progress_of(Resumed(step, epoch, None), updates) == Progress(step * updates, epoch)


@given(st.integers(0, 10**6), st.integers(0, 1000), st.integers(1, 4))
def test_the_plugins_state_goes_before_studiogans_counters(
    steps: int, epochs: int, updates: int
) -> None:
    """StudioGAN's steps are no updates where g_updates_per_step was another."""
    resumed = Resumed(7, 2, {"steps": steps, "epochs": epochs, "more": "things"})
    assert progress_of(resumed, updates) == Progress(steps, epochs)


def test_a_new_run_begins_at_nought() -> None:
    assert progress_of(None, 2) == Progress(0, 0)


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
    assert current == Resumed(7, 2, {"steps": 7, "epochs": 2})
    assert watched(LOADED, folder, best=True).state == {"steps": 5, "epochs": 1}


def test_a_checkpoint_without_the_plugin_has_no_state(tmp_path: Path) -> None:
    write_critic(tmp_path, "current", {"step": 7, "topk": 14.4, "best_fid": None})
    assert watched(LOADED, tmp_path) == Resumed(7, 2, None)


def test_a_frozen_critic_is_the_start_of_another_training(tmp_path: Path) -> None:
    write_critic(tmp_path, "current", {STATE_KEY: {"steps": 7, "epochs": 2}})
    fresh = ("name", 0, 0, "initialize", None, 0, None, None, None, None)
    assert watched(fresh, tmp_path, freeze=2) == Resumed(0, 0, None)


def test_a_failed_load_is_not_remembered() -> None:
    def load_StudioGAN_ckpts(**_: Any) -> None:
        raise IndexError("no such checkpoint")

    ckpt = SimpleNamespace(load_StudioGAN_ckpts=load_StudioGAN_ckpts, torch=torch)
    resumption = Resumption()
    resumption.watch(ckpt)
    with pytest.raises(IndexError):
        ckpt.load_StudioGAN_ckpts(ckpt_dir="nowhere", load_best=False, RUN=None)
    assert resumption.resumed is None
