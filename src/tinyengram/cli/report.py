"""``tinyengram report``: the page anew."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tinyengram.errors import TinyEngramError


def report(run: Annotated[Path, typer.Argument(help="Run folder that holds results.json.")]) -> None:
    """Write a run's report.html anew from its results.json."""
    from tinyengram.files import read_model, write_atomically
    from tinyengram.report.page import render_page
    from tinyengram.study.results import Results

    file = run / "results.json"
    if not file.is_file():
        raise TinyEngramError(f"{file} does not exist: give the folder of a finished run.")
    results = read_model(Results, file, "Run compare again, which writes it anew from what is kept beside it.")
    write_atomically(run / "report.html", render_page(results))
    print(f"Report: {run / 'report.html'}")
