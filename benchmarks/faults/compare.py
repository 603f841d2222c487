"""Whether two runs have ended the same."""

import json
from pathlib import Path
from typing import Any

import torch

from topk_plugin.base.errors import UserError
from topk_plugin.engine.checkpoint import load_checkpoint

CLOCK = ("time", "speed/images_per_second")


def differences(reference: Path, run: Path) -> str:
    """What differs between a run and the undisturbed one, in words; "" where nothing does.

    Held against each other bit by bit: the whole training state in ``last.pt``, what is logged
    (times left out), every sample picture, and the history of metrics.
    """
    states = []
    for folder in (reference, run):
        try:
            states.append(load_checkpoint(folder / "checkpoints" / "last.pt").trainer)
        except UserError as error:
            return str(error)
    place = different(states[0], states[1])
    if place is not None:
        return f"the checkpoints differ at {place}"
    if _log(reference) != _log(run):
        return "metrics.jsonl differs"
    for picture in sorted((reference / "samples").iterdir()):
        other = run / "samples" / picture.name
        if not other.exists() or other.read_bytes() != picture.read_bytes():
            return f"samples/{picture.name} differs"
    histories = [_result(folder)["history"] for folder in (reference, run)]
    if histories[0] != histories[1]:
        return "the history of metrics differs"
    left = [path.name for path in run.rglob(".*.partial")]
    return f"{left[0]} is left" if left else ""


def different(first: Any, second: Any, place: str = "trainer") -> str | None:
    """The first place in nested plain data where two values are not the same, bit for bit."""
    if type(first) is not type(second):
        return place
    if isinstance(first, torch.Tensor):
        same = first.dtype == second.dtype and first.shape == second.shape
        same = same and torch.equal(_bytes(first), _bytes(second))
        return None if same else place
    if isinstance(first, dict):
        if first.keys() != second.keys():
            return place
        pairs = [(f"{place}.{name}", first[name], second[name]) for name in first]
    elif isinstance(first, list | tuple):
        if len(first) != len(second):
            return place
        pairs = [(f"{place}.{i}", a, b) for i, (a, b) in enumerate(zip(first, second, strict=True))]
    else:
        return None if first == second else place
    found = (different(a, b, inner) for inner, a, b in pairs)
    return next((inner for inner in found if inner is not None), None)


def _bytes(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.contiguous().reshape(-1).view(torch.uint8)


def _log(run: Path) -> list[dict[str, Any]]:
    lines = (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [{k: v for k, v in json.loads(line).items() if k not in CLOCK} for line in lines]


def _result(run: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((run / "result.json").read_text(encoding="utf-8"))
    return content
