"""``tinyengram compare``: run a study, or finish it."""

from __future__ import annotations

import sys
from concurrent.futures import Executor
from contextlib import nullcontext
from pathlib import Path
from typing import Annotated

import typer

from tinyengram.cli.exits import interruptible
from tinyengram.errors import TinyEngramError


def compare(
    study: Annotated[
        str, typer.Argument(help="A preset (quick, evidence, original, ablations, smoke) or a study file.")
    ] = "quick",
    out: Annotated[Path | None, typer.Option(help="Run folder; default: runs/<name of the study>.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the results as JSON, and nothing else.")] = False,
    workers: Annotated[int, typer.Option(min=1, help="Processes of this machine that train and ask side by side.")] = 1,
    ray: Annotated[
        str | None, typer.Option(metavar="ADDRESS", help="Do the work on a Ray cluster: host:port, or auto.")
    ] = None,
    storage: Annotated[
        str | None,
        typer.Option(metavar="URL", help="Where nodes that share no files leave what they make: s3://bucket/prefix, …"),
    ] = None,
    cpus: Annotated[float, typer.Option(min=0, help="CPUs that each job asks Ray for.")] = 1,
    gpus: Annotated[float, typer.Option(min=0, help="GPUs that each job asks Ray for; 0.5: two share one.")] = 0,
    memory: Annotated[float, typer.Option(min=0, help="GiB of memory that each job asks Ray for.")] = 4,
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
    from tinyengram.processes import leave_process_group, processes, rank
    from tinyengram.report.table import terminal_tables
    from tinyengram.study.crew import most_side_by_side
    from tinyengram.study.executors import Needs, Processes, on_ray, share_threads
    from tinyengram.study.run import help_training, run_study
    from tinyengram.study.storage import Storage

    if workers > 1 and ray is not None:
        raise TinyEngramError("--workers are processes of this machine, and --ray names a cluster. Give one of them.")
    if (workers > 1 or ray is not None or storage is not None) and processes() > 1:
        raise TinyEngramError(
            "torchrun trains each arm on several processes, --workers, --ray and --storage train several arms side by "
            "side. Give one of them."
        )
    if rank():
        help_training(plan, folder)
        leave_process_group()
        return
    stored = None if storage is None else Storage(storage)
    side_by_side: Executor | None = None
    if ray is not None:
        side_by_side = on_ray(ray, Needs(cpus, gpus, memory))
    elif workers > 1 or stored is not None:
        side_by_side = Processes(workers, most_side_by_side(plan))
        if workers > side_by_side.workers:
            console.print(f"{side_by_side.workers} processes: no more tasks of this study can be done at once.")
        # Shared, also by what this process does itself: results are the same to the bit for equal threads alone.
        share_threads(side_by_side.workers)
    with (
        interruptible("Interrupted. Run the same command to continue."),
        Live(console) as live,
        side_by_side or nullcontext() as executor,
    ):
        results = run_study(plan, folder, live.show, executor, stored)
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
