"""The files of a run's folder."""

import json
import platform
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from topk_plugin.engine.config import Config
from topk_plugin.errors import UserError
from topk_plugin.files import atomic_write, remove_leftovers, unwritable
from topk_plugin.version import __version__


class RunFolder:
    """``-save DIR``: config.yaml, environment.json, result.json, samples/, checkpoints/ and logs.

    Args:
        path: the folder; made if missing.

    Raises:
        UserError: it can't be made or written, or is a file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.checkpoints = path / "checkpoints"
        self.samples = path / "samples"
        if path.exists() and not path.is_dir():
            raise UserError(f"-save {path} is a file; give a folder")
        try:
            for folder in (self.checkpoints, self.samples):
                folder.mkdir(parents=True, exist_ok=True)
            remove_leftovers(path)
        except OSError as error:
            raise unwritable(path, error) from error

    def write_start(self, config: Config, command: str, facts: dict[str, Any]) -> None:
        """Write config.yaml and environment.json.

        Raises:
            UserError: they can't be written.
        """
        with atomic_write(self.path / "config.yaml") as temporary:
            temporary.write_text(config.to_yaml(), encoding="utf-8")
        self._write_json("environment.json", environment() | {"command": command} | facts)

    def write_result(self, result: dict[str, Any]) -> None:
        """Write result.json.

        Raises:
            UserError: it can't be written.
        """
        self._write_json("result.json", result)

    def write_evaluation(self, result: dict[str, Any]) -> Path:
        """Write a later evaluation beside result.json; returns its path.

        Raises:
            UserError: it can't be written.
        """
        name = f"evaluation-{datetime.now(UTC):%Y%m%d-%H%M%S}.json"
        self._write_json(name, result)
        return self.path / name

    def _write_json(self, name: str, content: dict[str, Any]) -> None:
        with atomic_write(self.path / name) as temporary:
            temporary.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def environment() -> dict[str, Any]:
    """Versions and hardware, as far as they can change a number."""
    facts: dict[str, Any] = {
        "topk_plugin": __version__,
        "python": sys.version.split()[0],
        "torch": torch.__version__,
        "system": f"{platform.system()} {platform.machine()}",
        "cpu_threads": torch.get_num_threads(),
        "started": f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}",
    }
    if torch.cuda.is_available():
        facts["cuda"] = torch.version.cuda
        facts["gpu"] = torch.cuda.get_device_name()
    return facts
