"""The code and the commands that the README and docs print do what they say."""

import re
from pathlib import Path

import pytest
import torch
from torch import nn

from topk_plugin import KSchedule, TopK
from topk_plugin.cli.main import main

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
GATE = (ROOT / "docs" / "gate.md").read_text(encoding="utf-8")


def loop_names() -> dict[str, object]:
    """What a reader's own loop has before the README's lines are added."""
    torch.manual_seed(0)
    generator, critic = nn.Linear(4, 6), nn.Linear(6, 1)
    z = torch.randn(8, 4)
    return {
        "critic": critic,
        "generator": generator,
        "loader": [torch.randn(8, 6)] * 3,
        "train_critic": lambda *networks_and_batch: None,
        "g_optimizer": torch.optim.SGD(generator.parameters(), 0.1),
        "g_loss": lambda scores: -scores.mean(),
        "sample_z": lambda: torch.randn(8, 4),
        "z": z,
        "iteration": 0,
    }


def python_blocks(text: str) -> list[str]:
    return re.findall(r"```python\n(.*?)```", text, re.DOTALL)


@pytest.mark.parametrize("text", [README, GATE], ids=["README", "docs/gate.md"])
def test_the_loop_runs_and_gates(text: str) -> None:
    names = loop_names()
    exec(python_blocks(text)[0], names)
    topk = names["topk"]
    assert isinstance(topk, TopK)
    assert topk.state_dict()["steps"] == 3
    assert topk.state_dict()["epochs"] == 1
    assert topk.k == 7  # 0.99 * 8 after the first epoch


def test_the_step_by_hand_runs_and_gates() -> None:
    names = loop_names() | {"torch": torch, "real": torch.randn(8, 6)}
    topk = names["topk"] = TopK(KSchedule(gamma=0.5, nu=0.5, every=1))
    for _ in range(2):
        names["handle"] = topk.attach(names["critic"])
        exec(python_blocks(GATE)[1], names)
        topk.end_step()
    assert topk.stats.k == 4
    assert topk.stats.mask.shape == (8,)


def test_the_monitoring_lines_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names = loop_names()
    for block in python_blocks(GATE):
        exec(block, names)
    assert "topk/k" in (tmp_path / "runs" / "mine" / "metrics.jsonl").read_text()


def test_the_two_commands_are_printed_as_promised() -> None:
    for command in (
        'pip install -e ".[train]" && topk-plugin train -cfg configs/Digits/BigGAN-TopK.yaml '
        "-save runs/quickstart",
        'pip install -e ".[test]" && pytest',
    ):
        assert f"```\n{command}\n```" in README
    ci = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    assert '\npip install -e ".[test]" && pytest\n' in ci


def test_printed_train_commands_are_accepted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("TOPK_PLUGIN_CACHE", str(tmp_path))
    commands = re.findall(r"topk-plugin (train -cfg configs/Digits.*)", README)
    assert commands
    for command in commands:
        assert main([*command.split(), "--dry-run"]) == 0
    assert "plan:" in capsys.readouterr().err


def test_the_readme_is_short_and_in_order() -> None:
    assert len(README.splitlines()) < 150
    order = ["docs/gate.png", "## Ten lines", "## What is known", "## Does it help my GAN?"]
    assert [README.index(part) for part in order] == sorted(README.index(part) for part in order)


def test_links_lead_somewhere() -> None:
    for page in (ROOT / "README.md", *(ROOT / "docs").rglob("*.md")):
        text = page.read_text(encoding="utf-8")
        for target in re.findall(r"\]\(([^)#\s]+)\)", text):
            if not target.startswith("http"):
                assert (page.parent / target).exists(), f"{page.name}: {target}"
        for node in re.findall(r"`(tests/[\w/]+\.py)(?:::(\w+))?", text):
            path, name = node
            assert (ROOT / path).exists(), f"{page.name}: {path}"
            assert not name or f"def {name}(" in (ROOT / path).read_text(), f"{page.name}: {name}"


def test_the_cost_is_the_measured_one() -> None:
    import json

    measured = json.loads((ROOT / "benchmarks/results/overhead/overhead.json").read_text())
    for mode, entry in measured["modes"].items():
        cells = [mode]
        for pair in ("gate/none", "again/none", "slice/none"):
            ratio = entry[pair]
            cells.append(f"{ratio['time']:.3f} [{ratio['low']:.3f}, {ratio['high']:.3f}]")
        cells.append(f"{entry['gate_own_share']:.2%}")
        cells.append(f"{entry['gate/none']['peak']:.3f}")
        assert f"| {' | '.join(cells)} |" in GATE
    assert measured["command"] in GATE
