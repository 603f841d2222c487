"""Run folders -> the page about them."""

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from topk_plugin.report.find import run_folders, short_names
from topk_plugin.report.page import paragraph, write_page
from topk_plugin.report.read_run import read_run
from topk_plugin.report.run_sections import intro_of, sections_of


def write_report(paths: Sequence[Path], save: Path) -> int:
    """Write the page about the runs at ``paths``; returns its size in bytes.

    Args:
        paths: see :func:`topk_plugin.report.find.run_folders`.
        save: the HTML file.

    Raises:
        UserError: there is no run at a path, or the file can't be written.
    """
    folders = run_folders(paths)
    names = short_names(folders)
    runs = [read_run(folder, name) for folder, name in zip(folders, names, strict=True)]
    title = " and ".join(names) if len(names) < 3 else f"{len(names)} runs"
    intro = intro_of(runs)
    when = f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC"
    going_on = any(run.state == "running" for run in runs)
    more = "; a run goes on: the same command shows what has come since" if going_on else ""
    intro += paragraph(f"Made by topk-plugin report, {when}{more}.", faint=True)
    return write_page(save, title, intro, sections_of(runs))
