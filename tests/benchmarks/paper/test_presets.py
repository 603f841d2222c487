"""Presets name configs that can be read, in pairs, with k at its floor in time."""

from dataclasses import replace

import pytest

from benchmarks.paper.gans import ARMS, BASELINE, CPU
from benchmarks.paper.presets import ABLATIONS, PRESETS
from topk_plugin.base.errors import UserError
from topk_plugin.engine.trainer import images_per_step
from topk_plugin.study.spec import Data, RunSpec
from topk_plugin.study.study import check_floor, runs_of

IMAGES = {"CIFAR10": 50_000, "Digits": 1437}


def specs_of(name: str, **choice: object) -> list[RunSpec]:
    preset = PRESETS[name]
    data = preset.gans[0].config_of(ARMS["topk"]).DATA.name
    given = {"device": "cpu", "threads": 1, "inception_weights": None, "precision": "fp32"} | choice
    return runs_of(preset, data=Data(data, None, None), images=IMAGES[data], **given)


@pytest.mark.parametrize("name", [name for name in PRESETS if "companions" not in name])
def test_every_arm_of_a_seed_differs_in_the_selection_only(name: str) -> None:
    by_pair: dict[tuple[str, int], list[RunSpec]] = {}
    specs = specs_of(name)
    assert len({spec.name for spec in specs}) == len(specs)
    for spec in specs:
        by_pair.setdefault((spec.gan, spec.seed), []).append(spec)
    for runs in by_pair.values():
        rest = []
        for run in runs:
            tree = {name: dict(section) for name, section in run.config.items()}
            tree["LOSS"] = {k: v for k, v in tree["LOSS"].items() if "topk" not in k}
            rest.append(tree)
            assert run.config["LOSS"]["apply_topk"] == (run.arm != BASELINE)
        assert all(tree == rest[0] for tree in rest)


def test_the_cpu_preset_has_the_seeds_that_were_promised() -> None:
    seeds = {gan.name: gan.seeds for gan in CPU}
    assert seeds == {"DCGAN": 5, "SNGAN": 5, "BigGAN": 3, "ContraGAN": 3}
    for gan in CPU:
        config = gan.config_of(ARMS["topk"])
        check_floor(config, IMAGES["CIFAR10"], 0.5)
        with pytest.raises(UserError, match="k reaches its floor at step"):
            check_floor(config, IMAGES["CIFAR10"], 0.3)


def test_a_floor_that_comes_too_late_is_refused_with_the_gamma_that_would_do() -> None:
    slow = (*CPU[0].overrides, "LOSS.topk_gamma=0.999", "LOSS.topk_every=epoch")
    late = replace(CPU[0], overrides=slow).config_of(ARMS["topk"])
    with pytest.raises(UserError, match=r"LOSS\.topk_(gamma|every)="):
        check_floor(late, IMAGES["CIFAR10"], 0.5)


def test_ablations_without_a_baseline_of_their_own_share_its_settings() -> None:
    by_name = {gan.name: gan for gan in ABLATIONS}
    for gan in ABLATIONS:
        if gan.compared_with is None:
            assert ARMS[BASELINE] in gan.arms
            continue
        mine = gan.config_of(ARMS[BASELINE]).to_dict()
        shared = by_name[gan.compared_with].config_of(ARMS[BASELINE]).to_dict()
        for tree in (mine, shared):
            tree["LOSS"] = {k: v for k, v in tree["LOSS"].items() if "topk" not in k}
        assert mine == shared


def test_the_paper_preset_is_studiogans_full_size() -> None:
    config = PRESETS["paper"].gans[0].config_of(ARMS["topk"])
    assert config.MODEL.g_conv_dim == 96
    assert config.OPTIMIZATION.total_steps == 100_000
    assert images_per_step(config) == 320
    assert (PRESETS["paper"].samples, PRESETS["paper"].extractor) == (50_000, "inception")


def test_fewer_runs_can_be_asked_for() -> None:
    specs = specs_of("cpu", gans=["SNGAN"], arms=[ARMS[BASELINE], ARMS["bottomk"]], seeds=2)
    names = ["SNGAN/baseline-0", "SNGAN/bottomk-0", "SNGAN/baseline-1", "SNGAN/bottomk-1"]
    assert [spec.name for spec in specs] == names
    # comparisons come with their baselines, of their own or of another GAN
    names = [spec.name for spec in specs_of("cpu", gans=["SNGAN"], arms=[ARMS["topk"]], seeds=1)]
    assert names == ["SNGAN/baseline-0", "SNGAN/topk-0"]
    specs = specs_of("ablations", gans=["SNGAN-small nu 0.5"], arms=[ARMS["topk"]], seeds=1)
    names = [spec.name for spec in specs]
    assert names == ["SNGAN-small/baseline-0", "SNGAN-small nu 0.5/topk-0"]
    with pytest.raises(UserError, match="'StyleGAN' is not in cpu; it has 'DCGAN', 'SNGAN'"):
        specs_of("cpu", gans=["StyleGAN"])
