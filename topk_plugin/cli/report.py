"""`topk-plugin report`."""

import argparse
from pathlib import Path

from topk_plugin.base.errors import UserError
from topk_plugin.cli.common import nonempty_path

HELP = "a page about runs, or about a study: curves, pictures, scores, settings, warnings"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "runs",
        nargs="+",
        type=nonempty_path,
        metavar="RUN",
        help="the folder of a run (running or over; of `train`, of a patched StudioGAN, of a "
        "RunLog in a loop of one's own); several are compared",
    )
    parser.add_argument(
        "-save",
        "--save",
        type=nonempty_path,
        metavar="FILE.html",
        help="default: report.html in the run's folder; of several, in the current folder",
    )


def run(options: argparse.Namespace) -> int:
    from topk_plugin.report.build import write_report

    save: Path | None = options.save
    if save is None:
        save = options.runs[0] / "report.html" if len(options.runs) == 1 else Path("report.html")
    elif save.is_dir():
        raise UserError(f"-save {save} is a folder; give a file, such as {save / 'report.html'}")
    size = write_report(options.runs, save)
    print(f"{save}: {size / 1e6:.1f} MB; open it in a browser")
    return 0
