"""`topk-plugin`: chooses the command, and turns a user's mistake into one sentence."""

import argparse
import io
import itertools
import os
import sys
import threading
import warnings
from collections.abc import Sequence
from typing import Any

from topk_plugin.base.errors import UserError
from topk_plugin.base.extras import TRAIN, describe_missing, missing_for_training
from topk_plugin.base.launched import is_first_process, several_processes
from topk_plugin.cli import (
    configs,
    data,
    doctor,
    evaluate,
    export,
    mixture,
    report,
    runs,
    sample,
    schedule,
    studiogan,
    study,
    train,
)
from topk_plugin.cli.common import INTERRUPTED, USER_ERROR
from topk_plugin.cli.sentences import sentence_of
from topk_plugin.version import __version__

COMMANDS = (
    *(train, evaluate, sample, export, study, report, schedule, mixture, studiogan),
    *(data, configs, runs, doctor),
)
IN_SEVERAL_PROCESSES = ("train", "evaluate", "sample")

# What these import beyond torch, they import where it is used.
ON_TORCH_ALONE = ("schedule", "studiogan", "configs", "doctor")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program; returns its exit status (2: the user can mend it, 3: the training has
    diverged, 130: interrupted)."""
    options = parse(sys.argv[1:] if arguments is None else arguments)
    if several_processes() and options.command not in IN_SEVERAL_PROCESSES:
        return _fail(
            f"WORLD_SIZE is {os.environ['WORLD_SIZE']}, but of the commands only "
            f"{', '.join(IN_SEVERAL_PROCESSES)} run in several processes; start "
            f"{options.command} without torchrun"
        )
    warnings.showwarning = _show_warning
    threading.excepthook = _show_failed_thread
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # names that the terminal can't show
    missing = missing_for_training() if options.needs_training else []
    if missing:
        return _fail(describe_missing(f"topk-plugin {options.command}", missing))
    try:
        return int(options.run(options))
    except ModuleNotFoundError as error:
        package = TRAIN.get((error.name or "").partition(".")[0])
        if package is None:
            raise
        needed = describe_missing(f"topk-plugin {options.command}", [package])
        return _end(_fail(needed), told=True)
    except KeyboardInterrupt:
        if is_first_process():
            print("\ninterrupted", file=sys.stderr)
        return _end(INTERRUPTED, told=True)
    except BrokenPipeError:
        # the reader of our output has gone; nothing more can be said
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except (UserError, OSError, MemoryError, RuntimeError) as error:
        sentence = sentence_of(error)
        if sentence is not None:
            return _end(_fail(sentence), told=True)
        if _lost_another_process(error):
            return _end(USER_ERROR, told=False)
        raise


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """The options of a command line; what is after ``--`` goes to another program as it is, in
    ``passed_on``.

    Raises:
        SystemExit: the arguments are wrong (status 2), or help or the version was asked for (0).
    """
    parser = _parser()
    own = list(itertools.takewhile(lambda argument: argument != "--", arguments))
    rest = list(arguments[len(own) + 1 :])
    options, unknown = parser.parse_known_args(own)
    hint = ""
    if hasattr(options, "passed_on"):
        options.passed_on = rest
        hint = "; StudioGAN's own arguments come after --"
    elif rest:
        unknown += ["--", *rest]
    if unknown:
        parser.error(f"unrecognized arguments: {' '.join(unknown)}{hint}")
    return options


def _end(status: int, *, told: bool) -> int:
    """``status``; but of several processes, none returns."""
    if "torch" in sys.modules:
        from topk_plugin.engine import processes

        processes.break_off(status, told=told)
    return status


def _lost_another_process(error: BaseException) -> bool:
    """Whether that is the error; says so where the process that has gone did not."""
    from topk_plugin.engine import processes

    if not processes.lost_another(error):
        return False
    if is_first_process() and not processes.somebody_told():
        _fail(
            "another process of this training has gone (killed, perhaps for want of memory, or its "
            "machine is not reached any more); go on from the last checkpoint with -ckpt auto"
        )
    return True


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="topk-plugin",
        description="Top-k training of GANs (Sinha et al., NeurIPS 2020).",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"topk-plugin {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for module in COMMANDS:
        command: Any = module
        name = command.__name__.rpartition(".")[2]
        sub = commands.add_parser(
            name, help=command.HELP, description=command.HELP, allow_abbrev=False
        )
        command.add_arguments(sub)
        sub.set_defaults(run=command.run, needs_training=name not in ON_TORCH_ALONE)
    return parser


def _fail(sentence: str) -> int:
    print(f"topk-plugin: error: {sentence}", file=sys.stderr)
    return USER_ERROR


def _show_failed_thread(failure: threading.ExceptHookArgs) -> None:
    """Nothing where a thread could not write: the main thread is told too, and says it."""
    if not issubclass(failure.exc_type, OSError):
        threading.__excepthook__(failure)


def _show_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: Any = None,
    line: str | None = None,
) -> None:
    """One line, without the place in the code, which a user of the command can't do much with."""
    if is_first_process():
        print(f"topk-plugin: {category.__name__}: {message}", file=sys.stderr)
