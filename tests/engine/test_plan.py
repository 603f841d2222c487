"""What a run says of its schedule, against a simulation of the schedule."""

import math
import re

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from tests.engine.tiny import tiny_config, tiny_trainer
from topk_plugin.engine.methods.topk import schedule_of
from topk_plugin.engine.plan import describe_plan, describe_top_k, steps_to_floor
from topk_plugin.engine.trainer import steps_per_epoch


@given(
    gamma=st.floats(0.3, 0.99),
    nu=st.floats(0.05, 0.95),
    batch=st.integers(2, 128),
    steps_per_epoch=st.integers(1, 20),
    every=st.sampled_from(["epoch", 1, 7]),
)
def test_steps_to_the_floor(
    gamma: float, nu: float, batch: int, steps_per_epoch: int, every: str | int
) -> None:
    config = tiny_config(
        {
            "LOSS": {"topk_gamma": gamma, "topk_nu": nu, "topk_every": every},
            "OPTIMIZATION": {"batch_size": batch},
        }
    )
    schedule = schedule_of(config, 1.0)
    floor_at = steps_to_floor(config, steps_per_epoch)

    def k_after(steps: int) -> int:
        return schedule.k(steps // (steps_per_epoch if every == "epoch" else every), batch)

    assert k_after(int(floor_at)) == k_after(10**9)
    if floor_at > 0:
        assert k_after(int(floor_at) - 1) > k_after(10**9)


@pytest.mark.parametrize(
    ("loss", "total", "parts"),
    [
        ({}, 6, ["k from 8 to 2 of 8", "the floor is reached at step 4 of 6"]),
        ({"topk_gamma": 0.99}, 100, ["note: k only falls to 4 in 100 steps", "topk_gamma="]),
        ({"topk_gamma": 0.99}, 3, ["note: k only falls to 7", "topk_every=STEPS"]),
        ({"topk_nu": 0.999, "topk_gamma": 0.9}, 6, ["k can never drop"]),
        ({"topk_nu": 1.0}, 6, ["k can never drop"]),
        ({"topk_release_from": 0, "topk_release_to": "50%"}, 6, ["raise LOSS.topk_release_from"]),
        ({"topk_release_from": 9, "topk_release_to": 9}, 6, ["release begins after the last step"]),
    ],
)
def test_lines(loss: dict, total: int, parts: list[str]) -> None:
    config = tiny_config({"LOSS": loss, "OPTIMIZATION": {"total_steps": total}})
    text = "\n".join(describe_top_k(config, 2))
    for part in parts:
        assert part in text


@given(
    shares=st.tuples(st.integers(30, 100), st.integers(30, 100)).map(sorted),
    total=st.integers(10, 300),
    steps_per_epoch=st.integers(1, 4),
    every=st.sampled_from(["epoch", 1, 3]),
)
def test_the_release_is_where_k_rises(
    shares: list[int], total: int, steps_per_epoch: int, every: str | int
) -> None:
    begin, end = (f"{share}%" for share in shares)
    loss = {"topk_gamma": 0.5, "topk_nu": 0.5, "topk_every": every}
    loss |= {"topk_release_from": begin, "topk_release_to": end}
    config = tiny_config({"LOSS": loss, "OPTIMIZATION": {"total_steps": total}})
    schedule = schedule_of(config, steps_per_epoch)
    text = "\n".join(describe_top_k(config, steps_per_epoch))
    assume("can never drop" not in text)  # so short that k is released before it falls
    found = re.search(r"k rises back to 8 from step (\d+) to (\d+)", text)
    assert found, text

    def k_after(steps: int) -> int:
        return schedule.k(steps // (steps_per_epoch if every == "epoch" else every), 8)

    first, last = map(int, found.groups())
    assert k_after(first - 1) == min(map(k_after, range(first)))
    assert all(k_after(step) == 8 for step in range(last, last + 50))
    assert last == first or k_after(last - 1) < 8


@given(nu=st.floats(0.1, 0.87), total=st.integers(8, 400), steps_per_epoch=st.integers(1, 4))
def test_the_suggested_gamma_reaches_the_floor_half_way(
    nu: float, total: int, steps_per_epoch: int
) -> None:
    short = {"LOSS": {"topk_gamma": 0.9999, "topk_nu": nu}, "OPTIMIZATION": {"total_steps": total}}
    text = "\n".join(describe_top_k(tiny_config(short), steps_per_epoch))
    assume("note:" in text)  # k of a batch of 8 is coarse and may reach its floor at once
    found = re.search(r"topk_gamma=([0-9.e-]+) would", text)
    assert found, text
    suggested = {"LOSS": {"topk_gamma": float(found[1])}}
    assert steps_to_floor(tiny_config(short, suggested), steps_per_epoch) <= total / 2


def test_without_top_k_and_with_accumulation() -> None:
    config = tiny_config(
        {"LOSS": {"apply_topk": False}, "OPTIMIZATION": {"acml_steps": 3, "total_steps": 10}}
    )
    lines = describe_plan(config, images=480, steps_per_epoch=10)
    assert lines[0].startswith("plan: 10 steps = 1.0 epochs of 10 steps; a step shows 48 of 480")
    assert "batch 8 x 3 accumulated" in lines[0]
    assert lines[1] == "top-k: off (LOSS.apply_topk)"


def test_feature_matching_shows_more_images_and_shortens_an_epoch() -> None:
    change = {"LOSS": {"apply_fm": True, "fm_lambda": 1.0, "topk_nu": 0.5}}
    config = tiny_config(change, {"OPTIMIZATION": {"total_steps": 9}})
    lines = describe_plan(config, images=48, steps_per_epoch=1.5)
    assert lines[0].startswith("plan: 9 steps = 6.0 epochs of 1.5 steps; a step shows 24 of 48")
    assert steps_to_floor(config, 1.5) == 2  # an epoch and a half is over in the second step


@pytest.mark.parametrize("d_updates", [1, 2])
@pytest.mark.parametrize("matching", [False, True])
def test_an_epoch_is_as_long_as_the_stream_takes(d_updates: int, matching: bool) -> None:
    change = {
        "LOSS": {"apply_fm": matching} | ({"fm_lambda": 1.0} if matching else {}),
        "OPTIMIZATION": {"batch_size": 4, "d_updates_per_step": d_updates},
    }
    trainer = tiny_trainer(change)
    said = steps_per_epoch(trainer.config, 40)
    assert trainer.steps_per_epoch == said
    steps = 0
    while trainer.stream.epoch < 2:
        trainer.step()
        steps += 1
    assert steps == math.ceil(2 * said)


def test_ttur_with_several_critic_updates_is_noted():
    rates = {"OPTIMIZATION": {"d_lr": 4e-4, "g_lr": 1e-4}}
    noted = describe_plan(tiny_config(rates), images=40, steps_per_epoch=2.0)
    assert any("two learning rates (TTUR)" in line for line in noted)
    one = tiny_config(rates, {"OPTIMIZATION": {"d_updates_per_step": 1}})
    assert not any("TTUR" in line for line in describe_plan(one, images=40, steps_per_epoch=2.0))
