"""Every code block of the README and the docs is executed by a test, every command is accepted."""

import importlib.util
import re
import shlex
import tomllib
from pathlib import Path

import pytest
import torch
import yaml
from torch import nn

from tests.engine.tiny import tiny_config
from topk_plugin import TopK
from topk_plugin.cli.main import parse
from topk_plugin.engine.config.config import Config
from topk_plugin.evaluation.metrics import METRICS

ROOT = Path(__file__).parents[1]
PAGES = {
    page.relative_to(ROOT).as_posix(): page.read_text(encoding="utf-8")
    for page in (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md"))
}
# Blocks of these pages are executed where what they do is looked at more closely.
ELSEWHERE = {
    "README.md": "tests/test_readme.py",
    "docs/gate.md": "tests/test_readme.py",
    "docs/extending.md": "tests/test_extending.py",
    "docs/training.md": "tests/cli/test_docs.py",
    "docs/report.md": "tests/report/test_docs.py",
}


class TupleCritic(nn.Module):
    """stylegan2-pytorch's: scores, and a loss of its quantisation."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(6, 1)

    def forward(self, images):
        return self.inner(images).squeeze(1), torch.zeros(())


def _spectral() -> nn.Module:
    return nn.Sequential(nn.utils.spectral_norm(nn.Conv2d(3, 3, 3)), nn.ReLU())


# What a page's reader has already, and what must hold afterwards.
NAMES = {
    "docs/evaluation.md": lambda: {
        "one": {"measured_with": {"extractor": "inception", "samples": 10}},
        "other": {"measured_with": {"extractor": "builtin", "samples": 10}},
    },
    "docs/study.md": dict,
    "docs/studiogan.md": lambda: {"generator": _spectral()},
    "docs/faq.md": dict,
    "docs/migration/stylegan2-pytorch.md": lambda: {"critic": TupleCritic()},
    "docs/migration/dia-gan.md": dict,
}


def _keeps_the_lowest(names: dict) -> bool:
    topk, critic = names["topk"], names["critic"]
    assert isinstance(topk, TopK)
    while topk.schedule.k(topk.progress.epochs, 8) > 4:
        with topk.generator_step():  # so that the epoch counts
            critic(torch.randn(8, 6, requires_grad=True))[0].mean().backward()
        topk.end_step()
        topk.end_epoch()
    images = torch.randn(8, 6, requires_grad=True)
    with topk.generator_step():
        scores = critic(images)[0]
        scores.mean().backward()
    kept = images.grad.abs().sum(1) > 0
    return bool(scores[kept].max() < scores[~kept].min()) and int(kept.sum()) == 4


def _rows_weigh_what_was_computed(names: dict) -> bool:
    gradients = names["images"].grad[:, 0, 0, 0]
    return bool(torch.allclose(gradients, 8 * torch.softmax(names["scores"], 0)))


CHECKS = {
    "docs/evaluation.md": lambda names: True,
    "docs/study.md": lambda names: len(names["study"].gans[0].arms) == 2,
    "docs/studiogan.md": lambda names: names["handle"].remove() is None,
    "docs/faq.md": _rows_weigh_what_was_computed,
    "docs/migration/stylegan2-pytorch.md": _keeps_the_lowest,
    "docs/migration/dia-gan.md": lambda names: names["topk"].schedule.k(69 * 1, 64) == 32,
}


def blocks(page: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", PAGES[page], re.S | re.M)


def test_every_page_with_python_is_executed() -> None:
    pages = {page for page in PAGES if blocks(page, "python")}
    assert pages == {*ELSEWHERE, *NAMES}
    for page, test in ELSEWHERE.items():
        assert "exec(" in (ROOT / test).read_text(encoding="utf-8"), page


@pytest.mark.parametrize("page", NAMES)
def test_the_python_of_a_page(page: str) -> None:
    torch.manual_seed(0)
    names = NAMES[page]()
    for block in blocks(page, "python"):
        exec(compile(block, page, "exec"), names)
    assert CHECKS[page](names)


def test_no_block_is_of_a_language_that_nobody_looks_at() -> None:
    languages = {kind for text in PAGES.values() for kind in re.findall(r"^```(\w+)$", text, re.M)}
    assert languages == {"python", "yaml", "toml", "bibtex"}


@pytest.mark.parametrize("page", [p for p in PAGES if blocks(p, "yaml") and p not in ELSEWHERE])
def test_the_yaml_of_a_page_is_accepted(page: str) -> None:
    for block in blocks(page, "yaml"):
        given = yaml.safe_load(block)
        # a part of a file is laid over a whole one
        config = Config.from_dict(given) if "DATA" in given else tiny_config(given)
        for section, values in given.items():
            for key, value in values.items():
                assert getattr(getattr(config, section), key) == value
        assert config.LOSS.apply_topk


def test_toml_is_toml() -> None:
    for page in PAGES:
        for block in blocks(page, "toml"):
            assert tomllib.loads(block)["project"]["entry-points"]["topk_plugin.methods"]


def command_lines(page: str) -> list[list[str]]:
    """The commands that a page prints, split; a synopsis has brackets, and a test of its own."""
    found = []
    for block in blocks(page, ""):
        if " [-" in block:
            continue
        for line in block.replace("\\\n", " ").splitlines():
            for part in line.split(" && "):
                if part.startswith(("topk-plugin ", "python -m ")):
                    found.append(shlex.split(part, comments=True))
    return found


@pytest.mark.parametrize("page", [page for page in PAGES if command_lines(page)])
def test_printed_commands_are_accepted(page: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(METRICS, "mean", METRICS["fid"])  # docs/extending.md adds it
    for words in command_lines(page):
        if words[0] == "python":
            assert importlib.util.find_spec(words[2]), words
            continue
        if words[-1] == "...":
            continue
        options = parse(words[1:])  # ends the test where the program would end
        config = getattr(options, "cfg_file", None)
        if config is not None and config.parts[0] == "configs":
            assert (ROOT / config).is_file(), words
