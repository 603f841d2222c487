"""The files of a run's folder."""

import os
from pathlib import Path
from typing import Any

from topk_plugin.base.environment import environment
from topk_plugin.base.errors import UserError
from topk_plugin.base.files import atomic_write, remove_leftovers, unwritable, write_json
from topk_plugin.engine.config.config import Config
from topk_plugin.engine.data.names import printable

try:
    import fcntl
except ImportError:  # Windows has no such locks
    _LOCKS = False
else:
    _LOCKS = True


class RunFolder:
    """``-save DIR``, for the one process that trains there.

    Holds config.yaml, environment.json, result.json, samples/, checkpoints/ and the logs.

    Args:
        path: the folder; made if missing.

    Raises:
        UserError: it can't be made or written, is a file, has a name that is not UTF-8, or another
            training is writing there.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.checkpoints = path / "checkpoints"
        self.samples = path / "samples"
        if path.exists() and not path.is_dir():
            raise UserError(f"-save {path} is a file; give a folder")
        try:
            str(path).encode()
        except UnicodeEncodeError as error:
            raise UserError(
                f"-save {printable(path)} is no UTF-8 name, and TensorBoard can't write there; "
                "give a folder of another name"
            ) from error
        try:
            path.mkdir(parents=True, exist_ok=True)
            self._lock()
            for folder in (self.checkpoints, self.samples):
                folder.mkdir(parents=True, exist_ok=True)
                remove_leftovers(folder)
            remove_leftovers(path)
        except OSError as error:
            raise unwritable(path, error) from error

    def _lock(self) -> None:
        """Keep other trainings out of the folder for as long as this process lives."""
        if not _LOCKS:
            return
        self._descriptor = os.open(self.path, os.O_RDONLY)
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(self._descriptor)
            raise UserError(
                f"another training is writing to {self.path}; wait for it, or give another folder "
                "to -save"
            ) from None

    def close(self) -> None:
        """Let others train in the folder."""
        if _LOCKS:
            os.close(self._descriptor)

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

    def _write_json(self, name: str, content: dict[str, Any]) -> None:
        write_json(self.path / name, content)
