"""The generator's gradient in the real StudioGAN: the gate against StudioGAN's own slice.

Everything is in float64 and starts from the same weights, latents and classes, see
``topk_plugin/studiogan/testing/generator_steps.py``.
"""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.studiogan.real.processes import run
from topk_plugin.studiogan.testing.generator_steps import BATCH, CASES, KEPT

pytestmark = pytest.mark.studiogan

SLICED = [name for name, case in CASES.items() if case.only_adversarial]
CONDITIONAL = [name for name in CASES if name not in SLICED]


@pytest.fixture(scope="module")
def steps(studiogan_checkout: Path, tmp_path_factory: Any) -> dict[str, dict[str, Any]]:
    """Case -> mode -> what was recorded."""
    folder = tmp_path_factory.mktemp("steps")
    results: dict[str, dict[str, Any]] = {name: {} for name in CASES}
    for kind in ("bare", "adapted"):
        file = folder / f"{kind}.pt"
        run("topk_plugin.studiogan.testing.generator_steps", kind, studiogan_checkout, file)
        for name, modes in torch.load(file, weights_only=True).items():
            results[name] |= modes
    return results


def kept(scores: Tensor) -> Tensor:
    """[N] bool: the rows that top-k is to keep."""
    mask = torch.zeros(BATCH, dtype=torch.bool)
    mask[scores.argsort(descending=True, stable=True)[:KEPT]] = True
    return mask


def flat(update: dict[str, Tensor], network: str) -> Tensor:
    return torch.cat([g.flatten() for name, g in update.items() if name.startswith(network)])


def error(actual: Tensor, expected: Tensor) -> float:
    return float((actual - expected).norm() / expected.norm())


@pytest.mark.parametrize("name", SLICED)
def test_the_gates_gradient_is_the_slices(name: str, steps: dict[str, dict[str, Any]]) -> None:
    gate, own = steps[name]["gate"], steps[name]["slice"]
    assert len(gate["updates"]) == len(own["updates"]) > 0
    for actual, expected in zip(gate["updates"], own["updates"], strict=True):
        assert error(flat(actual, "Gen."), flat(expected, "Gen.")) < 1e-10
    off = steps[name]["off"]["updates"][0]
    assert error(flat(own["updates"][0], "Gen."), flat(off, "Gen.")) > 1e-3


@pytest.mark.parametrize("name", list(CASES))
def test_dropped_images_have_no_gradient_and_kept_ones_the_right_one(
    name: str, steps: dict[str, dict[str, Any]]
) -> None:
    gate, off = steps[name]["gate"], steps[name]["off"]
    for scores, rows in zip(gate["scores"], gate["rows"], strict=True):
        assert torch.equal(rows[~kept(scores)], torch.zeros_like(rows[~kept(scores)]))
    # later updates start from other weights, so only the first batch can be compared
    scores, rows, whole = gate["scores"][0], gate["rows"][0], off["rows"][0]
    torch.testing.assert_close(scores, off["scores"][0], rtol=0, atol=0)
    assert whole[~kept(scores)].any(), "nothing was there to drop"
    assert error(rows[kept(scores)], whole[kept(scores)] * BATCH / KEPT) < 1e-12


@pytest.mark.parametrize("name", CONDITIONAL)
def test_studiogans_slice_lets_dropped_images_through(
    name: str, steps: dict[str, dict[str, Any]]
) -> None:
    if CASES[name].refused:
        assert "slice" not in steps[name]
        pytest.skip("StudioGAN refuses top-k for MHGAN")
    own = steps[name]["slice"]
    squares = own["rows"][0].flatten(1).square().sum(1)
    assert squares[~kept(own["scores"][0])].sum() / squares.sum() > 1e-8


def test_each_batch_has_a_selection_of_its_own(steps: dict[str, dict[str, Any]]) -> None:
    for name in ("acml_steps 2", "g_updates_per_step 2"):
        first, second = map(kept, steps[name]["gate"]["scores"])
        assert not torch.equal(first, second)


def test_latent_optimisation_calls_the_critic_ungated(steps: dict[str, dict[str, Any]]) -> None:
    """The latents that it finds, and with them the images and scores, are StudioGAN's."""
    gate, own = (steps["latent optimisation"][mode] for mode in ("gate", "slice"))
    assert gate["other_calls"] == own["other_calls"] == 1
    torch.testing.assert_close(gate["scores"], own["scores"], rtol=0, atol=0)


@pytest.mark.parametrize("name", ["feature matching", "MH, feature matching"])
def test_feature_matching_looks_at_the_real_images_untouched(
    name: str, steps: dict[str, dict[str, Any]]
) -> None:
    gate, off = steps[name]["gate"], steps[name]["off"]
    assert len(gate["real_scores"]) == 1
    torch.testing.assert_close(gate["real_scores"], off["real_scores"], rtol=0, atol=0)
    assert len(gate["scores"]) == 1


@pytest.mark.parametrize("kind", ["discrete", "continuous", "both"])
def test_infogans_heads_learn_from_the_whole_batch(
    kind: str, steps: dict[str, dict[str, Any]]
) -> None:
    """They are the critic's, in the generator's optimizer: the gate lies below them."""
    gate, off = (steps[f"InfoGAN, {kind}"][mode]["updates"][0] for mode in ("gate", "off"))
    heads = [name for name in gate if name.startswith("Dis.info_")]
    assert len(heads) == {"discrete": 1, "continuous": 2, "both": 3}[kind]
    for name in heads:
        assert gate[name].any()
        torch.testing.assert_close(gate[name], off[name], rtol=1e-12, atol=0)
