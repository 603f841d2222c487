"""The files of a run's folder."""

from pathlib import Path
from types import TracebackType
from typing import Any, Self

from filelock import FileLock, Timeout

from topk_plugin.base import run_log
from topk_plugin.base.environment import environment
from topk_plugin.base.errors import UserError
from topk_plugin.base.files import atomic_write, remove_leftovers, unwritable, write_json
from topk_plugin.engine.checkpoint import FOLDER, LAST, PREVIOUS
from topk_plugin.engine.config.config import Config
from topk_plugin.engine.data.printable_paths import printable

CONFIG, ENVIRONMENT, RESULT = run_log.CONFIG, run_log.ENVIRONMENT, run_log.RESULT
LOCK = ".lock"
TRAINED_BY = "the built-in trainer"


class RunFolder:
    """``-save DIR``, for the one process that trains there.

    Holds config.yaml, environment.json, result.json, samples/, checkpoints/ and the logs. The
    system lets go of the lock when this process ends, however it ends.

    Args:
        path: the folder; made if missing.

    Raises:
        UserError: it can't be made or written, is a file, has a name that is not UTF-8, or another
            training is writing there.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.checkpoints = path / FOLDER
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
            self._lock = FileLock(path / LOCK, blocking=False)
            try:
                self._lock.acquire()
            except Timeout:
                raise UserError(
                    f"another training is writing to {path}; wait for it, or give another folder "
                    "to -save"
                ) from None
            for folder in (self.checkpoints, self.samples):
                folder.mkdir(parents=True, exist_ok=True)
                remove_leftovers(folder)
            remove_leftovers(path)
        except OSError as error:
            raise unwritable(path, error) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let others train in the folder."""
        self._lock.release()

    def write_start(self, config: Config, command: str, facts: dict[str, Any]) -> None:
        """Write config.yaml and environment.json.

        Raises:
            UserError: they can't be written.
        """
        with atomic_write(self.path / CONFIG) as temporary:
            temporary.write_text(config.to_yaml(), encoding="utf-8")
        told = {"trained_by": TRAINED_BY, "command": command}
        write_json(self.path / ENVIRONMENT, environment() | told | facts)

    def write_result(self, result: dict[str, Any]) -> None:
        """Write result.json.

        Raises:
            UserError: it can't be written.
        """
        write_json(self.path / RESULT, result)


def has_run(folder: Path) -> bool:
    """Whether the folder holds a run already, which a new one must not overwrite."""
    checkpoints = (f"{FOLDER}/{LAST}", f"{FOLDER}/{PREVIOUS}")
    return any((folder / name).exists() for name in (CONFIG, *checkpoints))


def is_in_use(folder: Path) -> bool:
    """Whether a training is writing to the run's folder now."""
    if not (folder / LOCK).exists():
        return False
    try:
        with FileLock(folder / LOCK, blocking=False):
            return False
    except Timeout:
        return True
    except OSError:  # a folder of somebody else, in which a lock can't even be tried
        return False
