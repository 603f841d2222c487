"""Updates that are not finite change nothing; all others are as without looking."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor

from benchmarks.faults.compare import different
from benchmarks.faults.numbers import KINDS
from tests.engine.digests import CASES
from tests.engine.tiny import COMPANIONS, REGULARIZERS, tiny_config, tiny_images
from topk_plugin.engine.trainer import Trainer
from topk_plugin.engine.updates import FiniteUpdates

SHORT = {"OPTIMIZATION": {"d_updates_per_step": 1}}
METHODS = {
    "plain": (),
    "SGD": ({"OPTIMIZATION": {"type_": "SGD", "momentum": 0.5, "nesterov": False}},),
    "RMSprop": ({"OPTIMIZATION": {"type_": "RMSprop", "momentum": 0.5, "alpha": 0.9}},),
    "accumulated": ({"OPTIMIZATION": {"acml_steps": 2, "batch_size": 4}},),
    "batch normalisation": CASES["deep_conv"],
    **{name: (REGULARIZERS[name],) for name in ("LeCam", "R1")},
    **{name: (COMPANIONS[name],) for name in ("historical averaging", "masking", "NICE", "SAN")},
}


def trainer_of(*changes: dict, skip: bool) -> Trainer:
    return Trainer(
        tiny_config(SHORT, *changes),
        tiny_images(),
        seed=0,
        device=torch.device("cpu"),
        skip_not_finite=skip,
    )


def state_of(trainer: Trainer) -> dict[str, Any]:
    state = copy.deepcopy(trainer.state_dict())
    state.pop("skipped", None)
    return state


@pytest.mark.parametrize("method", METHODS)
def test_where_all_is_finite_every_bit_is_as_without(method: str) -> None:
    plain, skipping = (trainer_of(*METHODS[method], skip=skip) for skip in (False, True))
    for _ in range(3):
        losses = plain.step(), skipping.step()
        assert different(*losses) is None
    assert different(state_of(plain), state_of(skipping)) is None
    assert not any(skipping.updates.scalars().values())
    assert "skipped" not in plain.state_dict()


@pytest.mark.parametrize(
    ("kind", "method"),
    [
        *((kind, "plain") for kind in KINDS),
        # SAN's critic does not learn from these scores
        *(("nan in scores", method) for method in METHODS if method not in ("plain", "SAN")),
    ],
)
def test_what_is_not_finite_changes_nothing(kind: str, method: str) -> None:
    hurt, sides = KINDS[kind]
    trainer = trainer_of(*METHODS[method], skip=True)
    for bad in (True, False, True, True):
        before = state_of(trainer)
        handle = hurt(trainer) if bad else None
        trainer.step()
        if handle is not None:
            handle.remove()
        after = state_of(trainer)
        for side, network in (("generator", trainer.generator), ("discriminator", trainer.critic)):
            names = [name for name, _ in network.named_parameters()]
            moved = any(not torch.equal(before[side][n], after[side][n]) for n in names)
            left_out = bad and side in sides
            assert moved is not left_out
            memory = [state[f"{side[0]}_optimizer"]["state"] for state in (before, after)]
            if left_out and memory[0]:  # empty before the first step
                assert different(*memory) is None
        for name in ("step", "generator_updates"):
            assert after[name] == before[name] + 1
        assert all(tensor.isfinite().all() for tensor in tensors_of(after))
    updates = trainer.updates
    assert isinstance(updates, FiniteUpdates)
    for side in ("generator", "discriminator"):
        assert int(updates.skipped[side]) == 3 * (side in sides)
        assert int(updates.longest[side]) == 2 * (side in sides)
    restored = trainer_of(*METHODS[method], skip=True)
    restored.load_state_dict(trainer.state_dict())
    assert different(restored.updates.state_dict(), updates.state_dict()) is None


def test_what_methods_remember_of_a_bad_batch_is_forgotten() -> None:
    """The moving averages of LeCam, which one NaN would hold for ever."""
    trainer = trainer_of(REGULARIZERS["LeCam"], skip=True)
    for _ in range(3):
        trainer.step()
    before = state_of(trainer)["methods"]["LeCam"]
    handle = KINDS["nan in scores"][0](trainer)
    trainer.step()
    handle.remove()
    assert different(before, state_of(trainer)["methods"]["LeCam"]) is None


def tensors_of(value: Any) -> list[Tensor]:
    if isinstance(value, Tensor):
        return [value] if value.is_floating_point() else []
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return [tensor for part in inner for tensor in tensors_of(part)]
