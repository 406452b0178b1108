"""``tinyengram report``: the page anew."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tinyengram.errors import TinyEngramError


def report(run: Annotated[Path, typer.Argument(help="Run folder that holds results.json.")]) -> None:
    """Write a run's report.html anew from its results.json."""
    from pydantic import ValidationError

    from tinyengram.files import write_atomically
    from tinyengram.report.page import render_page
    from tinyengram.study.results import Results

    file = run / "results.json"
    if not file.is_file():
        raise TinyEngramError(f"{file} does not exist: give the folder of a finished run.")
    try:
        results = Results.model_validate_json(file.read_text())
    except ValidationError as error:
        raise TinyEngramError(f"{file} is not a results file of this version: {error}") from error
    write_atomically(run / "report.html", render_page(results))
    print(f"Report: {run / 'report.html'}")
