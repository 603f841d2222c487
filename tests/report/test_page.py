"""The page's HTML without a browser: whole, small, silent, and deaf to names that are code."""

import base64
import hashlib
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from tests.report.conftest import HOSTILE
from topk_plugin.report.build import write_report


class Reader(HTMLParser):
    """Tags, attributes, and what is inside of scripts."""

    def __init__(self) -> None:
        super().__init__()
        self.scripts: list[tuple[dict[str, str | None], str]] = []
        self.attributes: list[tuple[str, str, str | None]] = []
        self.text = ""
        self._open: dict[str, str | None] | None = None

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.attributes += [(tag, name, value) for name, value in attrs]
        self._open = dict(attrs) if tag == "script" else None

    def handle_data(self, data: str) -> None:
        if self._open is not None:
            self.scripts.append((self._open, data))
        else:
            self.text += data

    def handle_endtag(self, tag: str) -> None:
        self._open = None


@pytest.fixture(scope="module")
def page(runs: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("page") / "report.html"
    size = write_report(list(runs), path)
    assert size == path.stat().st_size < 3_000_000
    return path.read_text(encoding="utf-8")


def test_names_from_data_are_text(page: str) -> None:
    reader = Reader()
    reader.feed(page)
    assert HOSTILE not in page
    assert HOSTILE in reader.text  # a setting and a warning
    assert "<b>gate" in reader.text  # a run's name
    kinds = [attributes.get("type") for attributes, _ in reader.scripts]
    assert kinds == ["application/json", None, None]


def test_nothing_is_fetched_and_nothing_else_may_run(page: str) -> None:
    reader = Reader()
    reader.feed(page)
    assert not [name for _, name, _ in reader.attributes if name.startswith("on")]
    links = [v for _, name, v in reader.attributes if name in ("src", "href", "action", "srcset")]
    assert all(link and link.startswith(("#", "data:")) for link in links)
    (policy,) = re.findall(r'Content-Security-Policy" content="([^"]+)"', page)
    assert "default-src 'none'" in policy
    allowed = re.search(r"script-src ([^;]+)", policy)
    assert allowed is not None
    digests = [
        "'sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() + "'"
        for attributes, text in reader.scripts
        if "type" not in attributes
    ]
    assert allowed[1].split() == digests
    (style,) = re.findall(r"<style>(.*?)</style>", page, re.DOTALL)
    assert base64.b64encode(hashlib.sha256(style.encode()).digest()).decode() in policy
    assert "url(" not in style
    assert "@import" not in style


def test_the_data_says_what_the_runs_logged(page: str) -> None:
    reader = Reader()
    reader.feed(page)
    data = json.loads(reader.scripts[0][1])
    charts = {chart["title"]: chart for chart in data["charts"]}
    k = charts["k: samples of a batch that are kept"]
    assert k["group"] == "k"
    assert [line["name"] for line in k["series"]] == ["<b>gate"]
    assert k["series"][0]["x"] == list(range(2, 25, 2))
    assert [line["name"] for line in charts["generator's loss"]["series"]] == ["<b>gate", "plain"]
    assert "scores that were not finite, so far" not in charts  # there were none
    groups = [heatmap["group"] for heatmap in data["heatmaps"]]
    assert groups == ["scores", "classes"]
    assert data["heatmaps"][1]["rows"] == [HOSTILE, "cat", "dog"]
    samples, kept = data["sliders"]
    assert [column["name"] for column in samples["columns"]] == ["<b>gate", "plain"]
    assert [frame["step"] for frame in samples["columns"][0]["frames"]] == [8, 16, 24]
    assert kept["columns"][0]["frames"][0]["src"].startswith("data:image/")
    assert data["steps"] == [0, 24]


def test_settings_that_differ_stand_before_those_that_do_not(page: str) -> None:
    differ = page.index("These differ:")
    assert differ < page.index("settings that are the same")
    assert page.index("<td>0.01</td>") < page.index("<td>total_steps</td>")
