"""`--processes N`: the same command in N processes on this machine, by torch's elastic launcher."""

import logging
import os
import shlex
import signal
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from topk_plugin.base.errors import UserError
from topk_plugin.base.launched import several_processes
from topk_plugin.cli.common import INTERRUPTED, USER_ERROR

if TYPE_CHECKING:
    from topk_plugin.engine.config.config import Config

OPTION = "--processes"
# Set for the processes that are started here, so that they know the command that was typed.
_TYPED = "TOPK_PLUGIN_PROCESSES"


def launch(processes: int, arguments: Sequence[str]) -> int:
    """Run ``topk-plugin`` with ``arguments`` in so many processes.

    Returns:
        The exit status that they ended with.

    Raises:
        UserError: one of them was killed.
    """
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    # What it has to say of a failure, a page of it, the process has said in a sentence.
    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)
    if "OMP_NUM_THREADS" not in os.environ:
        os.environ["OMP_NUM_THREADS"] = str(max(1, (os.cpu_count() or 1) // processes))
    os.environ[_TYPED] = str(processes)
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=processes,
        run_id=f"topk-plugin-{os.getpid()}",
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        max_restarts=0,
        monitor_interval=0.2,
    )
    command = ("-m", "topk_plugin", *_without_option(arguments))
    try:
        elastic_launch(config, sys.executable)(*command)
    except SignalException:
        return INTERRUPTED
    except ChildFailedError as error:
        codes = [failure.exitcode for failure in error.failures.values()]
        killed = [code for code in codes if code < 0 and -code != signal.SIGTERM]
        if killed:
            raise UserError(
                f"a process of the training was ended by {signal.Signals(-killed[0]).name} (a want "
                f"of memory does that); go on from its last checkpoint with -ckpt auto, or with "
                f"fewer {OPTION}"
            ) from None
        return next((code for code in codes if code > 0), USER_ERROR)
    return 0


def command_typed(arguments: Sequence[str]) -> str:
    """The command that started this process, or the processes of which it is one."""
    if _TYPED in os.environ:
        return shlex.join(["topk-plugin", *arguments, OPTION, os.environ[_TYPED]])
    if several_processes():
        world = os.environ["WORLD_SIZE"]
        return shlex.join(["torchrun", "--nproc_per_node", world, "-m", "topk_plugin", *arguments])
    return shlex.join(["topk-plugin", *arguments])


def describe_processes(config: "Config", *, synchronized_bn: bool) -> list[str]:
    """How a training is shared between processes; nothing for a single one."""
    from torch import distributed

    from topk_plugin.gate import ranks

    world, batch = ranks.world_size(), config.OPTIMIZATION.batch_size
    if world == 1:
        return ["note: -sync_bn is for several processes, and this is one"] * synchronized_bn
    own = f"{batch // world} samples"
    lines = [f"processes: {world} ({distributed.get_backend()}), {own} of a batch's {batch} each"]
    if not synchronized_bn:
        lines.append(
            f"note: batch normalisation goes by the {own} of each process, so that the training is "
            "not that of another number of processes; -sync_bn makes it go by all"
        )
    loss = config.LOSS
    if loss.apply_topk and (loss.topk_mode == "slice" or loss.topk_scope == "rank"):
        lines.append(
            f"note: the best are chosen among the {own} of each process; LOSS.topk_mode 'gate' "
            "with topk_scope 'global' chooses among all"
        )
    return lines


def _without_option(arguments: Sequence[str]) -> list[str]:
    """A command line without ``--processes N``."""
    kept = list(arguments)
    for place, argument in enumerate(kept):
        if argument == OPTION:
            return kept[:place] + kept[place + 2 :]
        if argument.startswith(f"{OPTION}="):
            return kept[:place] + kept[place + 1 :]
    return kept
