"""`topk-plugin runs`."""

import argparse
import json
from pathlib import Path
from typing import Any

from topk_plugin.base.errors import UserError
from topk_plugin.cli.closing_table import aligned
from topk_plugin.cli.common import nonempty_path

HELP = "a table of the runs below a folder: finished, running, stopped, diverged"

DEEPEST = 4


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", type=nonempty_path, metavar="FOLDER")


def run(options: argparse.Namespace) -> int:
    if not options.folder.is_dir():
        raise UserError(f"{options.folder} is no folder; give one with runs below it")
    rows = [_row(folder, options.folder) for folder in _run_folders(options.folder, DEEPEST)]
    if not rows:
        raise UserError(
            f"there is no run in {options.folder} or {DEEPEST} folders below it; `train` writes "
            "config.yaml into each"
        )
    print("\n".join(aligned([("run", "state", "step", "metric", "end", "best"), *rows])))
    return 0


def _run_folders(folder: Path, depth: int) -> list[Path]:
    from topk_plugin.engine.export.weights import exported_weights
    from topk_plugin.engine.run_folder import has_run

    if exported_weights(folder) is not None:
        return []
    if has_run(folder):
        return [folder]
    if depth == 0:
        return []
    below = sorted(p for p in folder.iterdir() if p.is_dir() and not p.is_symlink())
    return [found for inner in below for found in _run_folders(inner, depth - 1)]


def _row(folder: Path, root: Path) -> tuple[str, ...]:
    result = _read(folder)
    name = folder.relative_to(root).as_posix()
    step, total = _last_step(folder), _total_steps(folder)
    of = "?" if total is None else f"{total:,}"
    row = (name, _state(folder, result, step, total), f"{step:,} of {of}")
    best = result.get("best")
    if not best or len(best) < 2:
        return (*row, "", "", "")
    metric = next(key for key in best if key != "step")
    end = result["metrics"].get(metric)
    return (*row, metric, "" if end is None else f"{end:.4g}", f"{best[metric]:.4g}")


def _state(folder: Path, result: dict[str, Any], step: int, total: int | None) -> str:
    from topk_plugin.engine.checkpoint import FOLDER, LAST, PREVIOUS
    from topk_plugin.engine.run_folder import is_in_use

    if is_in_use(folder):
        return "running"
    if result.get("status") == "diverged":
        return "diverged"
    if result and (total is None or result["steps"] >= total):
        return "finished"
    if any((folder / FOLDER / name).exists() for name in (LAST, PREVIOUS)):
        return "stopped; -ckpt auto goes on"
    return "stopped before its first checkpoint"


def _read(folder: Path) -> dict[str, Any]:
    """result.json, {} where there is none that can be read."""
    from topk_plugin.engine.run_folder import RESULT

    try:
        content = json.loads((folder / RESULT).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _total_steps(folder: Path) -> int | None:
    from topk_plugin.engine.config.config import load_config
    from topk_plugin.engine.run_folder import CONFIG

    try:
        return load_config(folder / CONFIG).OPTIMIZATION.total_steps
    except UserError:  # of another version
        return None


def _last_step(folder: Path) -> int:
    """The last step that was logged."""
    try:
        lines = (folder / "metrics.jsonl").read_bytes().splitlines()
    except OSError:
        return 0
    for line in reversed(lines):
        try:
            return int(json.loads(line)["step"])
        except (ValueError, KeyError, TypeError):  # half written
            continue
    return 0
