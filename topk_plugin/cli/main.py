"""`topk-plugin`: chooses the command, and turns a user's mistake into one sentence."""

import argparse
import io
import itertools
import os
import sys
import warnings
from collections.abc import Sequence
from typing import Any

from topk_plugin.base.errors import UserError
from topk_plugin.cli import (
    configs,
    data,
    doctor,
    evaluate,
    export,
    mixture,
    runs,
    sample,
    schedule,
    studiogan,
    study,
    train,
)
from topk_plugin.cli.common import INTERRUPTED, USER_ERROR
from topk_plugin.version import __version__

COMMANDS = (
    *(train, evaluate, sample, export, study, schedule, mixture, studiogan, data, configs, runs),
    doctor,
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program; returns its exit status (2: the user can mend it, 3: the training has
    diverged, 130: interrupted)."""
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
        sub.set_defaults(run=command.run)
    options = _parse(parser, sys.argv[1:] if arguments is None else arguments)
    warnings.showwarning = _show_warning
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # names that the terminal can't show
    try:
        return int(options.run(options))
    except UserError as error:
        return _fail(str(error))
    except KeyboardInterrupt:
        print("\ninterrupted", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        # the reader of our output has gone; nothing more can be said
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        place = f"{error.filename}: " if error.filename else ""
        return _fail(f"{place}{error.strerror or error}; check the path, its permissions and space")
    except MemoryError:
        return _fail(
            "out of memory; lower OPTIMIZATION.batch_size or --num_samples, or leave the images "
            "on the disk with --stream"
        )
    except RuntimeError as error:
        # torch's CPU allocator has no exception of its own
        if type(error).__name__ != "OutOfMemoryError" and "allocate memory" not in str(error):
            raise
        return _fail(
            "out of memory; lower OPTIMIZATION.batch_size (and raise acml_steps to keep the "
            "effective batch), --num_samples, or the widths in section MODEL"
        )


def _parse(parser: argparse.ArgumentParser, arguments: Sequence[str]) -> argparse.Namespace:
    """The options; what is after ``--`` goes to another program as it is, in ``passed_on``."""
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


def _fail(sentence: str) -> int:
    print(f"topk-plugin: error: {sentence}", file=sys.stderr)
    return USER_ERROR


def _show_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: Any = None,
    line: str | None = None,
) -> None:
    """One line, without the place in the code, which a user of the command can't do much with."""
    print(f"topk-plugin: {category.__name__}: {message}", file=sys.stderr)
