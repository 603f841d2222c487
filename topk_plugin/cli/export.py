"""`topk-plugin export`."""

import argparse
from pathlib import Path

from topk_plugin.base.errors import UserError
from topk_plugin.cli.common import nonempty_path, say

HELP = "write a run's generator as a folder that torch alone can draw from"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "run_dir",
        type=nonempty_path,
        metavar="RUN",
        help="a run's folder (its last checkpoint) or a .pt file",
    )
    parser.add_argument(
        "-save",
        "--save_dir",
        type=nonempty_path,
        metavar="DIR",
        help="the folder to write; default: export in the run's folder",
    )
    parser.add_argument(
        "-best", "--load_best", action="store_true", help="the best checkpoint, not the last"
    )
    parser.add_argument(
        "--raw", action="store_true", help="the generator itself, not its moving average"
    )


def run(options: argparse.Namespace) -> int:
    from topk_plugin.engine.checkpoint import BEST, LAST, checkpoint_file, load_checkpoint
    from topk_plugin.engine.export.folder import export
    from topk_plugin.engine.export.weights import exported_weights

    if exported_weights(options.run_dir) is not None:
        raise UserError(f"{options.run_dir} is an export already; give the run's folder")
    file = checkpoint_file(options.run_dir, BEST if options.load_best else LAST)
    folder = options.save_dir or _beside(file)
    facts = export(load_checkpoint(file), folder, raw=options.raw)
    say(
        f"the generator of step {facts['step']:,} ({facts['weights']}) is in {folder}; its program "
        f"differs from it by {facts['largest_difference_of_the_program']:.1e} at most"
    )
    say(f"next: python {folder / 'sample.py'} samples.png")
    return 0


def _beside(file: Path) -> Path:
    """``export`` in the run's folder."""
    from topk_plugin.engine.checkpoint import FOLDER

    if file.parent.name != FOLDER:
        raise UserError(f"{file} is in no run's folder; say by -save DIR where to write")
    return file.parent.parent / "export"
