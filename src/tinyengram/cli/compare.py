"""``tinyengram compare``: run a study, or finish it."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from tinyengram.cli.exits import interruptible


def compare(
    study: Annotated[
        str, typer.Argument(help="A preset (quick, evidence, original, smoke) or a study file.")
    ] = "quick",
    out: Annotated[Path | None, typer.Option(help="Run folder; default: runs/<name of the study>.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the results as JSON, and nothing else.")] = False,
) -> None:
    """Train every arm of a study, compare them at matched eval loss and write a report.

    Running the same command again continues where it was interrupted.
    """
    from rich.console import Console

    from tinyengram.cli.progress import Live, prepare_process
    from tinyengram.study.plan import load_study

    console = Console(stderr=True)
    plan = load_study(study)
    folder = out or Path("runs") / plan.name
    prepare_process()
    from tinyengram.hardware import leave_process_group
    from tinyengram.report.table import terminal_tables
    from tinyengram.study.run import help_training, run_study

    if int(os.environ.get("RANK", "0")):  # Set by `torchrun` and `accelerate launch`.
        help_training(plan, folder)
        leave_process_group()
        return
    with interruptible("Interrupted. Run the same command to continue."), Live(console) as live:
        results = run_study(plan, folder, live.show)
    leave_process_group()
    if as_json:
        print(results.model_dump_json())
        return
    output = Console(width=None if sys.stdout.isatty() else 150)
    for table in terminal_tables(results):
        output.print(table)
    output.print(results.finding, highlight=False, markup=False)
    together = sum(results.seconds.values())
    phases = ", ".join(f"{name} {seconds:.0f} s" for name, seconds in results.seconds.items())
    output.print(f"Time: {together:.0f} s ({phases})", highlight=False)
    output.print(f"Report: {folder / 'report.html'}", highlight=False, soft_wrap=True)
