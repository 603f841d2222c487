"""The LOSS.topk_* flags of a StudioGAN config: what is read, what is refused and how."""

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.studiogan.small_worker import configurations
from topk_plugin import KSchedule
from topk_plugin.gate.policies import POLICIES
from topk_plugin.studiogan.flags import DEFAULTS, TopKFlagError, TopKFlags

CHOICES = {
    "topk_mode": ["gate", "slice"],
    "topk_policy": [*POLICIES],
    "topk_scope": ["rank", "global", "N/A"],
    "topk_normalize": ["kept", "batch"],
}
fractions = st.floats(0, 1, exclude_min=True) | st.just(1)
not_fractions = (
    st.floats().filter(lambda x: not 0 < x <= 1)
    | st.integers().filter(lambda x: x != 1)
    | st.booleans()
    | st.none()
    | st.text()
    | st.lists(st.floats(0, 1), max_size=2)
    | st.floats(0.01, 1).map(str)
)
anything = st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.lists(st.text())


def refusal(**flags: Any) -> str:
    with pytest.raises(TopKFlagError) as caught:
        TopKFlags.of(configurations(**flags))
    return str(caught.value)


def test_the_defaults_are_a_gate_as_in_the_paper() -> None:
    assert TopKFlags.of(configurations()) == TopKFlags(
        0.9, 0.5, "epoch", None, "gate", "top", "rank", "kept"
    )


@pytest.mark.parametrize("topk_gamma", ["N/A", 0.9, "nonsense"])
def test_off_is_none_whatever_the_other_flags_say(topk_gamma: object) -> None:
    assert TopKFlags.of(configurations(apply_topk=False, topk_gamma=topk_gamma)) is None


@given(fractions, fractions, st.just("epoch") | st.integers(1, 10**9))
def test_the_schedule_is_what_the_flags_say(gamma: float, nu: float, every: Any) -> None:
    flags = TopKFlags.of(configurations(topk_gamma=gamma, topk_nu=nu, topk_every=every))
    assert flags is not None
    assert flags.schedule(100) == KSchedule(float(gamma), float(nu), every)


@pytest.mark.parametrize(
    ("name", "value"), [(name, v) for name, allowed in CHOICES.items() for v in allowed]
)
def test_every_choice_is_taken(name: str, value: str) -> None:
    flags = TopKFlags.of(configurations(**{name: value}))
    assert getattr(flags, name.removeprefix("topk_")) == (value if value != "N/A" else "rank")


@pytest.mark.parametrize("name", ["topk_gamma", "topk_nu"])
@given(value=not_fractions)
def test_what_is_no_fraction_is_refused_by_name(name: str, value: object) -> None:
    message = refusal(**{name: value})
    assert message.startswith(f"LOSS.{name} should be a number above 0 and at most 1, not")
    assert repr(value) in message


@pytest.mark.parametrize("name", CHOICES)
@given(value=anything)
def test_what_is_no_choice_is_refused_by_name(name: str, value: object) -> None:
    if value in CHOICES[name]:
        return
    message = refusal(**{name: value})
    allowed = str(CHOICES[name])
    assert message == f"LOSS.{name} should be one of {allowed}, not {value!r}."


@given(
    st.integers(max_value=0)
    | st.booleans()
    | st.floats()
    | st.none()
    | st.text().filter(lambda text: text != "epoch")
)
def test_what_is_no_period_is_refused(value: object) -> None:
    message = refusal(topk_every=value)
    assert message.startswith("LOSS.topk_every should be 'epoch' or a number of generator steps")
    assert repr(value) in message


@given(anything.filter(lambda value: not isinstance(value, bool)))
def test_apply_topk_is_true_or_false(value: object) -> None:
    assert refusal(apply_topk=value) == f"LOSS.apply_topk should be True or False, not {value!r}."


def test_numbers_that_yaml_reads_as_text_are_explained() -> None:
    assert "'1e-1' (YAML reads 1e-1 as text; write 0.1)" in refusal(topk_gamma="1e-1")
    assert "LOSS.apply_topk needs it" in refusal(topk_nu="N/A")
    assert "text" not in refusal(topk_nu=math.nan)


def test_the_default_scope_is_global_under_ddp_for_the_gate_only() -> None:
    def scope(**flags: Any) -> str:
        flags_read = TopKFlags.of(configurations(**flags))
        assert flags_read is not None
        return flags_read.scope

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
    ],
)
def test_the_slice_can_do_less(name: str, value: str, only: str) -> None:
    message = refusal(topk_mode="slice", **{name: value})
    assert message.startswith(f"LOSS.{name} should be {only!r} with LOSS.topk_mode 'slice'")
    assert f"not {value!r}; LOSS.topk_mode 'gate' allows it" in message
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
    flags = TopKFlags.of(configurations(topk_release_from=begin, topk_release_to=end))
    assert flags is not None
    assert flags.schedule(250) == KSchedule(0.9, 0.5, "epoch", *expected)


@pytest.mark.parametrize("name", ["topk_release_from", "topk_release_to"])
@given(
    value=st.floats(max_value=-1e-9)
    | st.sampled_from([math.nan, math.inf, True, None, "50", "half", "%", "101%", "-1%", "nan%"])
    | st.lists(st.integers())
)
def test_what_is_no_point_of_a_run_is_refused(name: str, value: object) -> None:
    points = {"topk_release_from": 1, "topk_release_to": "100%", name: value}
    message = refusal(**points)
    assert message.startswith(f"LOSS.{name} should be a number of epochs")
    assert repr(value) in message


def test_a_release_has_two_ends_in_their_order() -> None:
    assert "LOSS.topk_release_from needs LOSS.topk_release_to" in refusal(topk_release_from=3)
    assert "LOSS.topk_release_to needs LOSS.topk_release_from" in refusal(topk_release_to="3%")
    flags = TopKFlags.of(configurations(topk_release_from="50%", topk_release_to=30))
    assert flags is not None
    assert flags.schedule(60) == KSchedule(0.9, 0.5, "epoch", 30, 30)
    with pytest.raises(TopKFlagError, match=r"50%, which is 31 in this run\) or later, not 30"):
        flags.schedule(62)


def test_balanced_needs_classes() -> None:
    message = refusal(topk_policy="balanced", classes=1)
    assert "DATA.num_classes is 1" in message
    assert TopKFlags.of(configurations(topk_policy="balanced", classes=2)) is not None


def test_studiogan_can_print_the_defaults() -> None:
    """It writes every setting into its log as JSON; text and numbers only."""
    assert all(isinstance(value, str) for value in DEFAULTS.values())


def test_the_error_is_of_the_kind_that_studiogan_raises() -> None:
    assert issubclass(TopKFlagError, AssertionError)


def test_the_slice_is_refused_for_scores_that_it_cannot_cut() -> None:
    assert "MODEL.d_cond_mtd 'SPD'" in refusal(topk_mode="slice", d_cond_mtd="SPD")
    assert TopKFlags.of(configurations(topk_mode="gate", d_cond_mtd="SPD")) is not None
