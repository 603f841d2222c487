"""Colours and labels of arms, whatever their schedules are."""

from topk_plugin.mixture.lab.settings import Arm
from topk_plugin.mixture.report.style import FULL_BATCH, POLICIES, colours, label


def test_each_arm_has_its_own_colour_of_its_policys_hue() -> None:
    arms = [
        Arm("mine", gamma=1.0),
        Arm("a", nu=0.5),
        Arm("b", policy="random"),
        Arm("c", nu=0.25, every=7),
        Arm("d", nu=0.5, release_from=3, release_to=9),
        Arm("e", policy="bottom"),
    ]
    found = [colour.lower() for colour in colours(arms)]
    assert len(set(found)) == len(arms)
    assert found[0] == FULL_BATCH
    assert found[1] == POLICIES["top"].lower()
    assert found[2] == POLICIES["random"].lower()

    def brightness(colour: str) -> int:
        return sum(int(colour[i : i + 2], 16) for i in (1, 3, 5))

    assert brightness(found[1]) < brightness(found[3]) < brightness(found[4]) < 3 * 255


def test_an_arm_without_a_usual_name_is_called_by_its_own() -> None:
    assert label("top") == "top-k"
    assert label("nu 0.5, released 30% to 60%") == "nu 0.5, released 30% to 60%"
