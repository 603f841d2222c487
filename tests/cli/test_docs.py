"""docs/training.md names the commands and options that there are."""

import re

from tests.cli.helpers import ROOT, Program

PAGE = (ROOT / "docs" / "training.md").read_text(encoding="utf-8")


def test_the_synopsis_is_what_the_commands_take(program: Program) -> None:
    synopsis = re.split(r"\n```\n", PAGE, maxsplit=2)[1]
    commands = re.findall(r"^topk-plugin (data \w+(?=[ |])|\w+)((?:.|\n(?= ))*)", synopsis, re.M)
    assert {name for name, _ in commands} >= {"train", "evaluate", "sample", "configs", "runs"}
    for name, options in commands:
        help_page = " ".join(program(*name.split(), "--help").out.split())
        named = re.findall(r"(?<![\w-])--?\w[\w-]*", options)
        assert [option for option in named if option not in help_page] == []


def test_the_example_of_weights_runs() -> None:
    block = next(b for b in re.findall(r"```python\n(.*?)```", PAGE, re.S) if "load_config" in b)
    names: dict = {}
    exec(block[: block.index("# theirs")].replace('"configs/', f'"{ROOT}/configs/'), names)
    assert names["generator"].state_dict()
