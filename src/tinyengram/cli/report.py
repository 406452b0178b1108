"""``tinyengram report``: the page anew, or several runs on one page."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tinyengram.errors import TinyEngramError


def report(
    runs: Annotated[list[Path], typer.Argument(help="Folders of finished runs of compare, train or evaluate.")],
    out: Annotated[
        Path | None, typer.Option(help="The page; default: report.html in the run's folder. Needed for several runs.")
    ] = None,
) -> None:
    """Write a run's page anew, or one page on several runs that measured the same base on the same data."""
    from tinyengram.files import write_atomically
    from tinyengram.report.page import render_page
    from tinyengram.report.runs import load_run

    if len(runs) > 1 and out is None:
        raise TinyEngramError(f"{len(runs)} runs are joined on one page, which belongs to none: name it by --out.")
    if out is not None and out.is_dir():
        raise TinyEngramError(f"--out {out} names a folder. Name a file, such as {out / 'report.html'}.")
    loaded = [load_run(run) for run in runs]
    if len({run.folder.resolve() for run in loaded}) < len(runs):
        raise TinyEngramError("One run is named twice. Name each once.")
    page = out or loaded[0].folder / "report.html"
    write_atomically(page, render_page(loaded))
    print(f"Report: {page}")
