"""The program under test: `topk-plugin` in processes of its own, with a folder, images and config.

Importing torch takes a process longer than the whole training of this config. So a run is forked
from this process, which has imported everything and computed nothing, and calls the command line's
own entry; with a command in front (``--command``) it is started from nothing.
"""

import os
import random
import shlex
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch._dynamo  # which optimisers import when they are made, in three seconds
import torch.utils.tensorboard  # noqa: F401
from PIL import Image

import topk_plugin.engine.run
import topk_plugin.engine.session  # noqa: F401
from benchmarks.faults.shim import Rule, arm
from topk_plugin.cli.main import main

STEPS = 10
CONFIG = f"""\
DATA: {{name: tiny, img_size: 32, num_classes: 4}}
MODEL:
  {{backbone: big_resnet, g_cond_mtd: cBN, d_cond_mtd: PD, apply_g_sn: true, apply_d_sn: true,
   z_dim: 8, g_shared_dim: 4, g_conv_dim: 2, d_conv_dim: 4, apply_g_ema: true, g_ema_decay: 0.9,
   g_ema_start: 2}}
LOSS: {{adv_loss: hinge, apply_topk: true, topk_gamma: 0.5, topk_nu: 0.25}}
OPTIMIZATION: {{batch_size: 8, d_updates_per_step: 1, total_steps: {STEPS}}}
"""
SAVE_FREQ = 4
MOST_SECONDS = 600.0


@dataclass
class Ended:
    """A process that is over.

    Attributes:
        status: its exit status; minus the signal that ended it.
        said: what it wrote, both streams.
        seconds: its wall time.
        peak: the most memory it held, in MB.
    """

    status: int
    said: str
    seconds: float
    peak: float

    @property
    def sentence(self) -> str:
        """The one sentence of a refusal; "" where there is none, several, or a traceback."""
        found = [line for line in self.said.splitlines() if line.startswith("topk-plugin: error: ")]
        return found[0] if len(found) == 1 and "Traceback" not in self.said else ""


@dataclass
class Running:
    """A process under way, the leader of its own group."""

    pid: int
    output: Path
    started: float = field(default_factory=time.perf_counter)

    def signal(self, number: int) -> None:
        """Send it a signal, if it is still there."""
        with suppress(ProcessLookupError):
            os.kill(self.pid, number)

    def is_over(self) -> bool:
        """Whether it has ended, and was not waited for yet."""
        return os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None

    def wait_until(self, condition: Callable[[], bool]) -> bool:
        """Wait for a condition; False where the process ended first."""
        while not condition():
            if self.is_over():
                return condition()
            if time.perf_counter() - self.started > MOST_SECONDS:
                raise TimeoutError(self.output.read_text(errors="replace"))
            time.sleep(0.002)
        return True

    def wait(self, most: float = MOST_SECONDS) -> Ended:
        """Wait for its end; after ``most`` seconds it is killed, which shows in the status."""
        while not self.is_over() and time.perf_counter() - self.started < most:
            time.sleep(0.005)
        with suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)  # workers that outlive it too
        _, status, usage = os.wait4(self.pid, 0)
        seconds = time.perf_counter() - self.started
        said = self.output.read_text(encoding="utf-8", errors="replace")
        return Ended(os.waitstatus_to_exitcode(status), said, seconds, usage.ru_maxrss / 1024)


class Program:
    """Starts `topk-plugin` on the tiny config.

    Args:
        folder: of its own; images, config, cache and runs come into it.
        command: what starts the program, such as ``python -m topk_plugin`` or ``torchrun
            --nproc_per_node 2 -m topk_plugin``; "" forks.
    """

    def __init__(self, folder: Path, command: str = "") -> None:
        self.folder = folder
        self.command = shlex.split(command)
        self.config = folder / "tiny.yaml"
        self.data = folder / "data"
        self._count = 0
        self._reference: Path | None = None
        folder.mkdir(parents=True, exist_ok=True)
        self.config.write_text(CONFIG, encoding="utf-8")
        if not self.data.exists():
            write_images(self.data)

    def place(self, name: str = "run") -> Path:
        """A path in the folder that nothing is at."""
        self._count += 1
        return self.folder / f"{name}-{self._count}"

    def train(self, run: Path, *more: object, data: Path | None = None) -> list[str]:
        """The arguments of a training into ``run``; what is in ``more`` wins."""
        given = ["-data", data or self.data, "-save", run, "--extractor", "builtin"]
        often = ["--print_freq", 1, "--save_freq", SAVE_FREQ, "--device", "cpu"]
        return [str(a) for a in ("train", "-cfg", self.config, *given, *often, *more)]

    def start(
        self,
        arguments: Sequence[str],
        rule: Rule | None = None,
        before: Callable[[], None] | None = None,
    ) -> Running:
        """Start a process.

        Args:
            arguments: of `topk-plugin`.
            rule: the fault of the disk.
            before: called in the process, before the program; only where it is forked.
        """
        output = self.place("output")
        environment = {
            "OMP_NUM_THREADS": "1",
            "TOPK_PLUGIN_CACHE": str(self.folder / "cache"),
            **(Rule(self.folder / "nothing") if rule is None else rule).environment(),
        }
        if not self.command:
            sys.stdout.flush()
            sys.stderr.flush()
            pid = os.fork()
            if pid == 0:
                _run_forked(arguments, output, environment, before)
            return Running(pid, output)
        assert before is None, "what is changed inside of the process needs a fork"
        with open(output, "wb") as file:
            process = subprocess.Popen(
                [*self.command, *arguments],
                env=os.environ | environment,
                stdout=file,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                start_new_session=True,
            )
        process.returncode = 0  # this module waits for it
        return Running(process.pid, output)

    def run(
        self,
        arguments: Sequence[str],
        rule: Rule | None = None,
        before: Callable[[], None] | None = None,
        most: float = MOST_SECONDS,
    ) -> Ended:
        """Start a process and wait for its end; see `start`."""
        return self.start(arguments, rule, before).wait(most)

    def undisturbed(self) -> Path:
        """The run that all others are held against."""
        if self._reference is None:
            run = self.place("undisturbed")
            for reason in ("the extractor is trained", "as all others"):
                run = self.place("undisturbed")
                ended = self.run(self.train(run, "-metrics", "fid"))
                if ended.status != 0:
                    raise RuntimeError(f"{reason}: {ended.said}")
                self.seconds = ended.seconds
            self._reference = run
        return self._reference


def _run_forked(
    arguments: Iterable[str],
    output: Path,
    environment: dict[str, str],
    before: Callable[[], None] | None,
) -> None:
    """What a forked process does; it never returns."""
    status = 70
    try:
        os.setsid()
        descriptor = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
        for stream in (1, 2):
            os.dup2(descriptor, stream)
        os.environ.update(environment)
        if "LD_PRELOAD" in os.environ:
            arm()
        if before is not None:
            before()
        status = main(list(arguments))
    except SystemExit as exit_:  # argparse
        status = exit_.code if isinstance(exit_.code, int) else 1
    except BaseException:
        traceback.print_exc()
        status = 1
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def write_images(folder: Path, count: int = 40, classes: int = 4) -> None:
    """Class folders of 32-pixel PNG files, from a seed."""
    draw = np.random.default_rng(0)
    for index in range(count):
        path = folder / f"class{index % classes}" / f"{index:04d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(draw.integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(path)


def seeded(name: str) -> random.Random:
    """The random numbers of a fault: the same in every session."""
    return random.Random(name)
