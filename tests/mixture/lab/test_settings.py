"""Wrong settings end in one sentence that names what was given and what is allowed."""

import pytest

from topk_plugin.base.errors import UserError
from topk_plugin.mixture.lab.presets import ARMS, PRESETS, Preset, trainings
from topk_plugin.mixture.lab.settings import Arm, Settings

FULL = (Arm("full", gamma=1.0),)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"seeds": ()}, "no seeds"),
        ({"seeds": (1, 1)}, "seeds must differ"),
        ({"seeds": (-1,)}, "seed -1"),
        ({"arms": ()}, "no arms"),
        ({"arms": FULL * 2}, "arms must differ"),
        ({"modes": 24}, "square number"),
        ({"layout": "line"}, "layout must be grid or ring"),
        ({"imbalance": 0.5}, "imbalance must be"),
        ({"std": -1.0}, "std"),
        ({"loss": "lsgan"}, "non-saturating, hinge, wgan-gp or least-squares"),
        ({"steps": 0}, "steps 0"),
        ({"batch": -3}, "batch -3"),
        ({"evaluations": 300, "steps": 200}, "there are 200"),
        ({"lr": 0.0}, "lr"),
        ({"lr": float("nan")}, "lr"),
        ({"beta2": 1.0}, "beta2"),
    ],
)
def test_wrong_settings(changes: dict, said: str) -> None:
    with pytest.raises(UserError, match=said):
        Settings(**{"arms": FULL, "seeds": (0,), **changes})


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"nu": 1.5}, "nu must be a number above 0 and at most 1, not 1.5"),
        ({"gamma": 0.0}, "gamma must be"),
        ({"every": 0}, "every must be"),
        ({"onset": -1}, "onset -1"),
        ({"policy": "balanced"}, "top, bottom or random"),
        ({"normalize": "mean"}, "kept or batch"),
        ({"release_from": 10}, "release_to must be given too"),
        ({"release_from": 10, "release_to": 5}, "release_to must be"),
    ],
)
def test_wrong_arms(changes: dict, said: str) -> None:
    with pytest.raises(UserError, match=said):
        Arm("mine", **changes)


def test_k_stays_the_batch_until_the_onset() -> None:
    arm = Arm("late", gamma=0.5, nu=0.1, every=10, onset=20)  # nu B is 1.6
    assert [arm.k(step, 16) for step in (0, 19, 20, 29, 30, 40, 1000)] == [16, 16, 16, 16, 8, 4, 2]


def test_a_release_counts_steps_whatever_the_onset() -> None:
    for onset in (0, 20):
        arm = Arm("r", gamma=0.5, nu=0.5, every=10, onset=onset, release_from=60, release_to=80)
        assert arm.k(onset, 16) == 16
        assert [arm.k(step, 16) for step in (50, 60, 69, 70, 80, 1000)] == [8, 8, 8, 12, 16, 16]
    assert not arm.drops_nothing
    assert Arm("full", gamma=1.0).drops_nothing


@pytest.mark.parametrize("steps", [40, 1000, 8000])
def test_the_released_arm_has_its_own_schedule(steps: int) -> None:
    preset = Preset((4,), 1, 50, 0, {"steps": steps, "evaluations": 10})
    given = {"nu": 0.5, "release_from": "50%", "release_to": steps, "normalize": "batch"}
    names = ("full", "top", "released")
    (settings,) = trainings(preset, arm_names=names, schedule=given)
    _, top, released = settings.arms
    assert (top.nu, top.release_from, top.release_to) == (0.5, steps // 2, steps)
    assert released.normalize == "batch"
    parts = {part: released.k(round(part * steps), 256) for part in (0.1, 0.29, 0.45, 0.6, 1.0)}
    assert parts == {0.1: 64, 0.29: 64, 0.45: pytest.approx(160, abs=8), 0.6: 256, 1.0: 256}


def test_any_arm_can_be_added() -> None:
    preset = Preset((4,), 1, 50, 0, {"steps": 1000})
    more = ({"name": "mine", "policy": "random", "nu": 0.25, "release_from": "10%"},)
    with pytest.raises(UserError, match="release_to must be given too"):
        trainings(preset, arm_names=("full",), schedule={}, more_arms=more)
    more[0]["release_to"] = "10%"
    (settings,) = trainings(preset, arm_names=("full",), schedule={}, more_arms=more)
    mine = Arm("mine", policy="random", nu=0.25, every=20, release_from=100, release_to=100)
    assert settings.arms[1] == mine
    with pytest.raises(UserError, match="a part such as 30%"):
        trainings(preset, arm_names=("full",), schedule={"onset": "140%"})


def test_evaluations_end_at_the_end() -> None:
    assert Settings(FULL, (0,), steps=10, evaluations=3).evaluation_steps == [0, 3, 7, 10]


@pytest.mark.parametrize("name", PRESETS)
def test_presets_measure_at_least_ten_times_in_the_last_fifth(name: str) -> None:
    for settings in trainings(PRESETS[name], arm_names=ARMS, schedule={}):
        late = [s for s in settings.evaluation_steps if s > 0.8 * settings.steps]
        assert len(late) >= 10
        assert [arm.name for arm in settings.arms] == list(ARMS)
        floor = [arm.k(settings.steps, settings.batch) for arm in settings.arms]
        assert floor == [256, 192, 192, 192]


def test_an_empty_preset_is_refused() -> None:
    with pytest.raises(UserError, match="no modes"):
        trainings(Preset((), 1, 50, 0, {}), arm_names=ARMS, schedule={})
    with pytest.raises(UserError, match="analyses -1"):
        trainings(Preset((4,), 1, 50, -1, {}), arm_names=ARMS, schedule={})
