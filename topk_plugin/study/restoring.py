"""Finished runs whose folders were lost, from the files that a report keeps of them.

A report's folder is small and can be committed; the runs' folders hold checkpoints and can't. With
this the runs of another machine, or of a disk that is gone, count as done again.
"""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from topk_plugin.base.errors import UserError
from topk_plugin.base.files import write_json
from topk_plugin.study import precision as precisions
from topk_plugin.study.results import kept_file
from topk_plugin.study.spec import RunSpec
from topk_plugin.study.worker import RESULT


def restore(specs: Sequence[RunSpec], report: Path, root: Path, say: Callable[[str], None]) -> None:
    """Give every run that ``report`` keeps and ``root`` does not have its result again.

    The precision that was chosen for those runs becomes that of ``root``, if it has none.

    Args:
        specs: of the study, whatever their precision.
        report: folder of the report.
        root: folder of the runs.
        say: prints a line.

    Raises:
        UserError: a kept run has other settings than the study.
    """
    found: list[tuple[RunSpec, dict[str, Any]]] = []
    for spec in specs:
        file = kept_file(report, spec.gan, spec.arm, spec.seed)
        if (root / spec.name / RESULT).exists() or not file.exists():
            continue
        content = json.loads(file.read_text(encoding="utf-8"))
        changed = _changed(spec, content)
        if changed:
            raise UserError(
                f"{file} is of a run with another {' and '.join(changed)}; give the report's own "
                "preset and --gan, or another folder to --save"
            )
        found.append((spec, content))
    choices = [content.get("precision_choice") for _, content in found]
    chosen = next((choice for choice in choices if choice is not None), None)
    if chosen is not None and precisions.chosen_before(root) is None:
        precisions.keep(chosen, root)
    for spec, content in found:
        write_json(root / spec.name / RESULT, content)
    say(f"{len(found)} finished runs restored from {report}")


def _changed(spec: RunSpec, content: dict[str, Any]) -> list[str]:
    """What of a run's settings its kept result contradicts.

    Keys that the configs did not have yet are at their defaults, as they were then.
    """
    measured, history = content["measured_with"], content["history"]
    config = content["config"]
    same = {
        "config": all(
            spec.config.get(section, {}).get(key) == value
            for section, keys in config.items()
            for key, value in keys.items()
        ),
        "held-out class": content["hold_out"] == spec.hold_out,
        "extractor": measured["extractor"] == spec.extractor,
        "number of images": measured["samples"] == spec.samples,
        "measurements": content["diverged_at_step"] is not None
        or [look["step"] for look in history if look["step"]] == list(spec.measured_at),
    }
    return [name for name, is_same in same.items() if not is_same]
