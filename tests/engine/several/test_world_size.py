"""Two processes (gloo, float64, joined batch statistics) train, measure and resume as one does."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from filelock import FileLock
from torch import Tensor

import tests.engine.several.training as training
from tests.engine.several.processes import in_processes
from tests.engine.several.training import CASES, LONG, MAIN_CASES, SHORT, steps_of, train

HALVED = ("PD", "2C")


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> list[Any]:
    """What two processes gave; those of the suite's workers that ask for it start them once."""
    folder = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent
    folder /= "two processes"
    folder.mkdir(exist_ok=True)
    with FileLock(folder / "lock"):
        done = folder / "done"
        if not done.exists():
            halves = {name: train(CASES[name], steps=LONG // 2)["state"] for name in HALVED}
            in_processes(2, folder, training.in_one_run, halves)
            done.touch()
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(2)]


def named(value: Any, name: str = "") -> Iterator[tuple[str, Tensor]]:
    if isinstance(value, Tensor):
        yield name, value
    elif isinstance(value, dict):
        for key, inner in value.items():
            yield from named(inner, f"{name}/{key}")
    elif isinstance(value, list | tuple):
        for place, inner in enumerate(value):
            yield from named(inner, f"{name}/{place}")
    elif isinstance(value, int | float | bool):
        yield name, torch.tensor(value)


def assert_same(found: Any, expected: Any, tolerance: float = 1e-10) -> None:
    others = dict(named(found))
    mine = dict(named(expected))
    for state in (others, mine):
        state.pop("/state/methods/top-k/rank", None)  # who wrote it
        state.pop("/methods/top-k/rank", None)
    assert others.keys() == mine.keys()
    assert len(mine) > 3
    for name, value in mine.items():
        torch.testing.assert_close(
            others[name], value, rtol=tolerance, atol=tolerance, msg=lambda m, n=name: f"{n}: {m}"
        )


@pytest.mark.parametrize("name", CASES)
def test_the_world_size_does_not_change_the_training(name: str, two: Any) -> None:
    expected = train(CASES[name], steps=steps_of(name))
    for rank in two:
        assert_same(rank["whole"][name], expected, training.TOLERANCES.get(name, 1e-10))


@pytest.mark.parametrize("name", HALVED)
def test_a_run_goes_on_in_another_number_of_processes(name: str, two: Any) -> None:
    expected = train(CASES[name], steps=LONG)["state"]
    for rank in two:
        assert_same(rank["halves"]["second"][name]["state"], expected)
    first = two[0]["halves"]["first"][name]["state"]
    assert_same(train(CASES[name], steps=LONG - LONG // 2, state=first)["state"], expected)


def test_without_joined_statistics_it_is_another_training_but_the_same_in_both(two: Any) -> None:
    one = train(CASES["PD"], steps=SHORT)["state"]["generator"]
    states = [rank["halves"]["own statistics"]["state"] for rank in two]
    for name, value in states[0]["generator"].items():
        if "running" not in name:
            assert torch.equal(value, states[1]["generator"][name]), name
    changed = [n for n, v in states[0]["generator"].items() if (v - one[n]).abs().max() > 1e-6]
    assert "linear0.weight_orig" in changed


def test_images_and_features_are_shared_out_and_equal_those_of_one(two: Any) -> None:
    for rank in two:
        for found, count in zip(rank["measured"], training.COUNTS, strict=True):
            expected = training.measure(count)
            assert torch.equal(found["images"], expected["images"])
            assert torch.equal(found["features"], expected["features"])


def test_what_hosts_tell_each_other(two: Any) -> None:
    for rank in two:
        learnt = rank["learnt"]
        assert learnt["any"] == [True, False]
        assert learnt["first"] == {"rank": 0}
        assert learnt["raised"] == "IndexError"
        assert learnt["mean"].tolist() == [0.5, 2.0]


def test_joined_rows_can_be_differentiated_twice(two: Any) -> None:
    expected = training.second_derivatives()
    for rank in two:
        assert_same(list(rank["second derivatives"].values()) * 2, list(expected.values()) * 2)


@pytest.mark.slow
def test_four_processes_train_as_one(tmp_path: Path) -> None:
    four = in_processes(4, tmp_path, training.train_all, list(MAIN_CASES))
    for name in MAIN_CASES:
        expected = train(CASES[name], steps=steps_of(name))
        for rank in four:
            assert_same(rank[name], expected)
