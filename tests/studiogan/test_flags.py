"""The LOSS.topk_* flags of a StudioGAN config: what is read, what is refused and how."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.studiogan.small_worker import configurations
from topk_plugin import KSchedule
from topk_plugin.base.errors import UserError
from topk_plugin.engine.config.config import Config
from topk_plugin.engine.keys.key import Key
from topk_plugin.engine.methods.topk import TOPK_KEYS
from topk_plugin.gate.policies import POLICIES
from topk_plugin.studiogan.flags import DEFAULTS, TopKFlagError, TopKFlags

CHOICES = {
    "topk_mode": ["gate", "slice"],
    "topk_policy": [*POLICIES],
    "topk_scope": ["rank", "global", "N/A"],
    "topk_normalize": ["kept", "batch"],
    "topk_accumulation": ["micro", "effective"],
}
fractions = st.floats(0, 1, exclude_min=True) | st.just(1)
anything = st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.lists(st.text())


def refusal(**flags: Any) -> str:
    with pytest.raises(TopKFlagError) as caught:
        TopKFlags.of(configurations(**flags))
    return str(caught.value)


def read(**changes: Any) -> TopKFlags:
    flags = TopKFlags.of(configurations(**changes))
    assert flags is not None
    return flags


def test_the_defaults_are_a_gate_as_in_the_paper() -> None:
    flags = read()
    assert flags.schedule(10) == KSchedule(0.9, 0.5, "epoch")
    assert (flags.mode, flags.policy, flags.scope, flags.normalize) == (
        "gate",
        "top",
        "rank",
        "kept",
    )


def trainers_refusal(flags: dict[str, Any]) -> str | None:
    """What the built-in trainer says to the same flags; None where it takes them."""
    try:
        Config.from_dict({"LOSS": flags, "MODEL": {"g_cond_mtd": "cBN"}})
    except UserError as error:
        return f"{error}."
    return None


@given(
    st.sampled_from(TOPK_KEYS),
    anything.filter(lambda value: value is not None)
    | st.sampled_from(["1e-1", "30%", "epoch", "gate", "global", 0.5, 7]),
)
def test_a_flag_is_taken_or_refused_as_by_the_built_in_trainer(key: Key, value: object) -> None:
    flags = {"apply_topk": True, "topk_gamma": 0.9, "topk_nu": 0.5, key.name: value}
    if "release" in key.name:
        flags = {"topk_release_from": "0%", "topk_release_to": "100%"} | flags
    said = trainers_refusal(flags)
    if said is None:
        read(**flags)
    else:
        assert refusal(**flags) == said


@pytest.mark.parametrize("topk_gamma", ["N/A", 0.9, "nonsense"])
def test_off_is_none_whatever_the_other_flags_say(topk_gamma: object) -> None:
    assert TopKFlags.of(configurations(apply_topk=False, topk_gamma=topk_gamma)) is None


@given(fractions, fractions, st.just("epoch") | st.integers(1, 10**9))
def test_the_schedule_is_what_the_flags_say(gamma: float, nu: float, every: Any) -> None:
    flags = read(topk_gamma=gamma, topk_nu=nu, topk_every=every)
    assert flags.schedule(100) == KSchedule(float(gamma), float(nu), every)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        (name, value)
        for name, allowed in CHOICES.items()
        for value in allowed
        if name != "topk_accumulation"  # read where it is refused, below
    ],
)
def test_every_choice_is_taken(name: str, value: str) -> None:
    found = getattr(read(**{name: value}), name.removeprefix("topk_"))
    assert found == (value if value != "N/A" else "rank")


@given(anything.filter(lambda value: not isinstance(value, bool)))
def test_apply_topk_is_true_or_false(value: object) -> None:
    message = refusal(apply_topk=value)
    assert message.startswith("LOSS.apply_topk is ")
    assert "it must be True or False" in message


def test_numbers_that_yaml_reads_as_text_are_numbers() -> None:
    assert read(topk_gamma="1e-1").gamma == 0.1
    assert "LOSS.topk_nu is '0.5'; it must be a number above 0 and at most 1, without" in refusal(
        topk_nu="0.5"
    )


@pytest.mark.parametrize("name", ["topk_gamma", "topk_nu"])
def test_gamma_and_nu_have_to_be_given(name: str) -> None:
    assert refusal(**{name: "N/A"}) == (
        f"LOSS.apply_topk needs LOSS.{name}, which has no value; it must be a number above 0 and "
        "at most 1."
    )


def test_the_default_scope_is_global_under_ddp_for_the_gate_only() -> None:
    def scope(**flags: Any) -> str:
        return read(**flags).scope

    assert scope() == "rank"
    assert scope(distributed=True) == "global"
    assert scope(distributed=True, topk_scope="rank") == "rank"
    assert scope(distributed=False, topk_scope="global") == "global"
    assert scope(distributed=True, topk_mode="slice") == "rank"


@pytest.mark.parametrize(
    ("name", "value", "only"),
    [
        *(("topk_policy", policy, "top") for policy in POLICIES if policy != "top"),
        ("topk_scope", "global", "rank"),
        ("topk_normalize", "batch", "kept"),
        ("topk_accumulation", "effective", "micro"),
    ],
)
def test_the_slice_can_do_less(name: str, value: str, only: str) -> None:
    message = refusal(topk_mode="slice", **{name: value})
    assert message.startswith(f"LOSS.{name} is {value!r}; with LOSS.topk_mode 'slice'")
    assert f"it can only be {only!r}, so use topk_mode 'gate'" in message
    assert TopKFlags.of(configurations(topk_mode="slice", **{name: only})) is not None


@pytest.mark.parametrize(
    ("begin", "end", "expected"),
    [
        (30, 60, (30, 60)),
        (0.5, 1, (0.5, 1)),
        ("30%", "60%", (75, 150)),
        ("12.5%", 200, (31.25, 200)),
        (0, "100%", (0, 250)),
        (40, 40, (40, 40)),
    ],
)
def test_a_release_is_in_progress_or_in_shares_of_the_run(
    begin: Any, end: Any, expected: tuple[float, float]
) -> None:
    flags = read(topk_release_from=begin, topk_release_to=end, total_steps=1000)
    assert flags.schedule(4) == KSchedule(0.9, 0.5, "epoch", *expected)


def test_a_share_is_one_of_the_generators_updates() -> None:
    flags = read(
        topk_every=5,
        topk_release_from="50%",
        topk_release_to=300,
        total_steps=1000,
        g_updates_per_step=2,
    )
    assert flags.schedule(4) == KSchedule(0.9, 0.5, 5, 200, 300)


def test_a_release_has_two_ends_in_their_order() -> None:
    assert "LOSS.topk_release_from needs LOSS.topk_release_to" in refusal(topk_release_from=3)
    assert "LOSS.topk_release_to needs LOSS.topk_release_from" in refusal(topk_release_to="3%")
    assert "must not be the later one" in refusal(topk_release_from=3, topk_release_to=2)
    mixed = {"topk_release_from": "50%", "topk_release_to": 30}
    assert read(**mixed, total_steps=60).schedule(1) == KSchedule(0.9, 0.5, "epoch", 30, 30)
    with pytest.raises(TopKFlagError, match=r"must be release_from \(31\) or later, not"):
        read(**mixed, total_steps=62).schedule(1)


def test_balanced_needs_a_generator_that_is_given_classes() -> None:
    """The built-in trainer's rule: anywhere else the labels are noise."""
    assert "MODEL.g_cond_mtd 'W/O'" in refusal(topk_policy="balanced", g_cond_mtd="W/O")
    for method in ("cBN", "cAdaIN"):
        assert read(topk_policy="balanced", g_cond_mtd=method).policy == "balanced"


def test_studiogan_can_print_the_defaults() -> None:
    """It writes every setting into its log as JSON; text and numbers only."""
    assert json.loads(json.dumps(DEFAULTS)) == DEFAULTS


def test_the_error_is_of_the_kind_that_studiogan_raises() -> None:
    assert issubclass(TopKFlagError, AssertionError)


def test_the_slice_is_refused_for_scores_that_it_cannot_cut() -> None:
    assert "MODEL.d_cond_mtd 'SPD'" in refusal(topk_mode="slice", d_cond_mtd="SPD")
    assert TopKFlags.of(configurations(topk_mode="gate", d_cond_mtd="SPD")) is not None


def test_a_selection_over_accumulated_batches_is_refused_with_who_can() -> None:
    message = refusal(topk_accumulation="effective", acml_steps=5)
    assert "StudioGAN's generator step can't look at all of its 5 accumulated batches" in message
    assert "built-in trainer (topk-plugin train" in message
    assert TopKFlags.of(configurations(topk_accumulation="effective", acml_steps=1)) is not None
    assert TopKFlags.of(configurations(topk_accumulation="micro", acml_steps=5)) is not None
