"""Faults of a disk for one process: a library that is preloaded, and the rule that it follows."""

import ctypes
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from topk_plugin.base.errors import UserError

SOURCE = Path(__file__).with_name("shim.c")
KILL = "kill"


@dataclass(frozen=True)
class Rule:
    """Which call of the operating system is hit, and how.

    Attributes:
        under: files below this folder count.
        call: write, fsync, rename, link, unlink, open (for writing) or any.
        file: only files whose path holds this text.
        at: the number of the call that is hit, from 1; 0: none.
        later: all calls after it too.
        do: ``KILL`` (SIGKILL, half of a write done) or the errno that the call fails with.
        log: a file that every call is written to, one a line.
    """

    under: Path
    call: str = "any"
    file: str = ""
    at: int = 0
    later: bool = False
    do: str | int = KILL
    log: Path | None = None

    def environment(self) -> dict[str, str]:
        """What the library reads."""
        return {
            "FAULTS_UNDER": str(self.under),
            "FAULTS_CALL": self.call,
            "FAULTS_FILE": self.file,
            "FAULTS_AT": f"{self.at}{'+' if self.later else ''}",
            "FAULTS_DO": str(self.do),
            "FAULTS_LOG": "" if self.log is None else str(self.log),
        }


def build(folder: Path) -> Path:
    """Compile the library into ``folder``.

    Raises:
        UserError: there is no C compiler, or this is not Linux.
    """
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None or not sys.platform.startswith("linux"):
        raise UserError("faults of a disk need Linux and a C compiler (cc); install gcc")
    library = folder / "faults.so"
    flags = ["-O1", "-Wall", "-Werror", "-shared", "-fPIC"]
    subprocess.run([compiler, *flags, str(SOURCE), "-o", str(library), "-ldl"], check=True)
    return library


def arm() -> None:
    """Have the library in this process read its rule from the environment."""
    ctypes.CDLL(None).faults_arm()


def is_loaded() -> bool:
    """Whether this process was started with the library."""
    return "faults.so" in os.environ.get("LD_PRELOAD", "")
