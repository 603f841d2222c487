"""`topk-plugin study`: from the arms on the command line to a report that grows."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from topk_plugin.cli.main import main
from topk_plugin.engine.config.config import load_config
from topk_plugin.engine.data.images import ImageSet
from topk_plugin.study import conduct, plan, worker
from topk_plugin.study.spec import Data, RunSpec
from topk_plugin.study.study import what_pairs_do_not_share

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
DIGITS = CONFIGS / "Digits" / "BigGAN-TopK.yaml"
TINY = (
    *("MODEL.g_conv_dim=4", "MODEL.d_conv_dim=4", "MODEL.g_ema_start=2"),
    *("OPTIMIZATION.batch_size=16", "OPTIMIZATION.total_steps=8", "LOSS.topk_every=1"),
)
ARMS = ("--arm", "full", "LOSS.apply_topk=false", "--arm", "nu50", "LOSS.topk_nu=0.5")


@pytest.fixture(scope="module")
def shared_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(autouse=True)
def cache(shared_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOPK_PLUGIN_CACHE", str(shared_cache))


@pytest.fixture
def in_this_process(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Runs without a process each, on few images; the names of those that were trained."""
    trained: list[str] = []

    def run_all(specs: list[RunSpec], root: Path, **how: object) -> None:
        for spec in specs:
            spec.check_same(root / spec.name)
            if worker.read_result(root / spec.name) is None:
                spec.write(root / spec.name)
                worker.run(RunSpec.read(root / spec.name), root / spec.name)
                trained.append(spec.name)

    digits = worker.open_both(Data("Digits", None, None), load_config(DIGITS, []))
    few = tuple(
        replace(each, images=each.images[:150], labels=each.labels[:150]) for each in digits
    )
    monkeypatch.setattr(conduct, "run_all", run_all)
    for module in (conduct, worker):
        monkeypatch.setattr(module, "open_both", lambda data, config: few)
    monkeypatch.setattr(plan, "TIMED_SECONDS", 0.0)
    return trained


def study(save: Path, *more: str) -> int:
    return main(["study", "-save", str(save), "--device", "cpu", *more])


def test_a_study_runs_grows_and_reports(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], in_this_process: list[str]
) -> None:
    save, trained = tmp_path / "study", in_this_process
    begin = ("-cfg", str(DIGITS), "--set", *TINY, *ARMS, "--num_samples", "60")
    assert study(save, *begin, "--seeds", "1") == 0
    assert trained == ["BigGAN-TopK/full-0", "BigGAN-TopK/nu50-0"]
    out = capsys.readouterr().out
    assert "BigGAN-TopK: 2 runs (full, nu50; seeds 0 to 0)" in out
    assert out.index("all: 2 runs") < out.index("runs done")  # the plan comes first
    full, half = (worker.read_result(save / "runs" / name) for name in trained)
    assert full["history"][0] == half["history"][0]  # the same weights and latents
    assert full["history"][-1] != half["history"][-1]
    assert [look["step"] for look in half["history"]] == [0, 2, 4, 6, 7, 8]
    assert (full["k_at_the_end"], half["k_at_the_end"]) == (None, 10)
    page = (save / "report" / "README.md").read_text()
    assert "2 of 2 runs are finished" in page
    assert "- nu50: `LOSS.topk_nu=0.5`" in page
    assert str(tmp_path) not in page

    # the same again trains nothing; more seeds and another arm need neither config nor arms
    assert study(save, *begin, "--seeds", "1") == 0
    assert len(trained) == 2
    assert study(save, "--seeds", "2", "--arm", "whole=batch", "LOSS.topk_nu=1.0") == 0
    added = {f"BigGAN-TopK/{arm}-1" for arm in ("full", "nu50")}
    added |= {f"BigGAN-TopK/whole=batch-{seed}" for seed in range(2)}
    assert set(trained[2:]) == added
    page = (save / "report" / "README.md").read_text()
    assert "6 of 6 runs are finished" in page
    assert study(save, "--report") == 0
    again = (save / "report" / "README.md").read_text()
    assert again.splitlines()[3:] == page.splitlines()[3:]  # but for the command
    assert (save / "report" / "samples-BigGAN-TopK.png").stat().st_size > 1000

    refused = {
        (
            "--arm",
            "nu50",
            "LOSS.topk_nu=0.25",
        ): "--arm nu50 is LOSS.topk_nu=0.25, but in this study",
        ("--baseline", "nu50"): "everything in this study is compared with full",
        ("--precision", "bf16"): "--precision bf16, but this study was begun with fp32",
        ("-cfg", str(DIGITS)): "begun with another config (",
    }
    capsys.readouterr()
    for more, sentence in refused.items():
        assert study(save, *more) == 2
        assert sentence in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ((), "holds no study yet: give -cfg FILE and two or more arms"),
        (("-cfg", str(DIGITS), "--arm", "one"), "two or more arms"),
        (("-cfg", str(DIGITS), "--arm", "a", "--arm", "a"), "--arm a is given twice"),
        (("-cfg", str(DIGITS), "--arm", "a/b", "--arm", "c"), "'a/b' can't name an arm"),
        (
            ("-cfg", str(DIGITS), "--arm", "LOSS.topk_nu=0.5", "--arm", "c"),
            "--arm LOSS.topk_nu=0.5 has no name",
        ),
        (
            ("-cfg", str(DIGITS), "--arm", "a", "--arm", "b", "--baseline", "c"),
            "--baseline c is no --arm; there are a, b",
        ),
        (("-cfg", str(DIGITS), "--arm", "a", "--arm", "b", "LOSS.topk_nu=2"), "LOSS.topk_nu"),
    ],
)
def test_mistakes_end_in_one_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], sentence: str
) -> None:
    assert study(tmp_path / "study", *arguments) == 2
    assert sentence in capsys.readouterr().err
    assert not (tmp_path / "study" / "study.json").exists()


@pytest.mark.parametrize(
    "config", sorted(CONFIGS.glob("*/*.yaml")), ids=lambda path: f"{path.parent.name}/{path.stem}"
)
def test_every_config_has_a_plan(
    config: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    data = load_config(config, []).DATA
    labels = torch.arange(data.num_classes).repeat(40)
    pixels = torch.zeros(len(labels), 3, data.img_size, data.img_size, dtype=torch.uint8)
    names = tuple(map(str, range(data.num_classes)))
    images = ImageSet(pixels, labels, names, data.name, "made up")
    for module in (conduct, worker):
        monkeypatch.setattr(module, "open_both", lambda data, config: (images, images))
    monkeypatch.setattr(plan, "_seconds_a_step", lambda trainer: 0.25)
    monkeypatch.setattr(plan, "_seconds_an_image", lambda trainer: 0.001)
    small = ("MODEL.g_conv_dim=8", "MODEL.d_conv_dim=8", "OPTIMIZATION.total_steps=1000")
    if load_config(config, []).MODEL.backbone == "deep_conv":
        small = small[2:]
    on = ("LOSS.apply_topk=true", "LOSS.topk_gamma=0.9", "LOSS.topk_nu=0.5")
    arguments = ("-cfg", str(config), "--set", *small, "--extractor", "builtin", "--seeds", "3")
    arms = ("--arm", "full", "LOSS.apply_topk=false", "--arm", "topk", *on)
    assert study(tmp_path / "study", *arguments, *arms, "--jobs", "2", "--dry-run") == 0
    text = capsys.readouterr().out
    assert f"{config.stem}: 6 runs (full, topk; seeds 0 to 2)" in text
    assert "0.25 s a step" in text
    assert "topk: top-k: k from" in text
    # 6 runs of 1,000 steps, and images that are measured
    hours = float(text.split("all: 6 runs, ")[1].split(" process-hours")[0])
    assert hours >= 6 * 250 / 3600 - 0.05
    assert not (tmp_path / "study").exists()


def test_the_plan_says_what_pairs_do_not_share() -> None:
    def config(*overrides: str) -> dict[str, dict[str, object]]:
        return load_config(DIGITS, list(overrides)).to_dict()

    assert what_pairs_do_not_share(config("LOSS.topk_nu=0.5"), config()) == []
    assert what_pairs_do_not_share(config("OPTIMIZATION.g_lr=0.01"), config()) == []
    assert what_pairs_do_not_share(config("MODEL.g_ema_decay=0.9"), config()) == []
    wide = config("MODEL.g_conv_dim=16")
    assert what_pairs_do_not_share(wide, config()) == ["initial weights and latents"]
    batch = config("OPTIMIZATION.batch_size=16")
    assert what_pairs_do_not_share(batch, config()) == ["the images and latents of a step"]


def test_auto_takes_the_faster_precision_and_stays_with_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, in_this_process: list[str]
) -> None:
    seconds = {"fp32": 0.2, "bf16": 0.1}
    monkeypatch.setattr(plan, "_seconds_a_step", lambda trainer: seconds[trainer.precision])
    begin = ("-cfg", str(DIGITS), "--set", *TINY, *ARMS, "--num_samples", "60")
    save = tmp_path / "study"
    assert study(save, *begin, "--seeds", "1", "--precision", "auto") == 0
    seconds["bf16"] = 9.0  # another machine
    assert study(save, "--seeds", "2") == 0
    for name in in_this_process:
        run = json.loads((save / "runs" / name / "run.json").read_text())
        assert run["precision"] == "bf16"
        choice = run["precision_choice"]
        assert choice["precision"] == "bf16"
        assert choice["seconds"] == {"fp32": 8 * 2 * 0.2, "bf16": 8 * 2 * 0.1}
        assert choice["cpu_units"] == run["environment"]["cpu_units"]
