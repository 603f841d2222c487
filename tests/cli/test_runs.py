"""`topk-plugin runs`: the state of every run below a folder."""

import json
from pathlib import Path

from tests.cli.helpers import Program
from topk_plugin.engine.run_folder import RunFolder


def test_a_table_of_runs_in_every_state(program: Program, tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    quick = ("-metrics", "prdc", "--save_freq", 6)
    assert program.train(runs / "a" / "finished", *quick).status == 0
    diverging = ("--set", "OPTIMIZATION.d_lr=1e30")
    assert program.train(runs / "diverged", "-metrics", "none", *diverging).status == 3
    for name in ("stopped", "longer", "running"):
        assert program.train(runs / name, "-metrics", "none", "--save_freq", 6).status == 0
    (runs / "stopped" / "result.json").unlink()
    # resumed for more steps and killed: its old result is not the end
    config = runs / "longer" / "config.yaml"
    config.write_text(config.read_text().replace("total_steps: 6", "total_steps: 12"))
    (runs / "new").mkdir()
    (runs / "new" / "config.yaml").write_bytes(config.read_bytes())
    (runs / "notes").mkdir()
    with RunFolder(runs / "running"):
        done = program("runs", runs)
    assert done.status == 0
    header, *rows = done.out.splitlines()
    assert header.split() == ["run", "state", "step", "metric", "end", "best"]
    found = {row.split()[0]: " ".join(row.split()[1:]) for row in rows}
    entry = json.loads((runs / "a" / "finished" / "result.json").read_text())["metrics"]
    assert found == {
        "a/finished": f"finished 6 of 6 precision {entry['precision']:.4g} "
        + found["a/finished"].split()[-1],
        "diverged": found["diverged"],
        "longer": "stopped; -ckpt auto goes on 6 of 12",
        "new": "stopped before its first checkpoint 0 of 12",
        "running": "running 6 of 6",
        "stopped": "stopped; -ckpt auto goes on 6 of 6",
    }
    assert found["diverged"].startswith("diverged ")


def test_no_runs(program: Program, tmp_path: Path) -> None:
    assert "no run in" in program("runs", tmp_path).err
    assert "is no folder" in program("runs", tmp_path / "nowhere").err
