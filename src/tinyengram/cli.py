"""The command line: options become calls. Nothing heavy is imported before a command runs."""

from __future__ import annotations

import math
import os
import sys
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tinyengram.errors import TinyEngramError

if TYPE_CHECKING:
    from rich.console import Console

    from tinyengram.study.progress import Event

_EXIT_ERROR, _EXIT_BAD_INPUT, _EXIT_INTERRUPTED = 1, 2, 130
_DEBUG = "--debug"

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="Engram memory as a fine-tuning method, and the study of what fine-tuning methods learn and forget.",
)


@app.callback()
def _options(
    debug: Annotated[bool, typer.Option(_DEBUG, help="Show the full trace of an error; may stand anywhere.")] = False,
) -> None:
    """What every command takes; :func:`main` reads it."""


@app.command()
def compare(
    study: Annotated[
        str, typer.Argument(help="A preset (quick, evidence, original, smoke) or a study file.")
    ] = "quick",
    out: Annotated[Path | None, typer.Option(help="Run folder; default: runs/<name of the study>.")] = None,
) -> None:
    """Train every arm of a study, compare them at matched eval loss and write a report.

    Running the same command again continues where it was interrupted.
    """
    from rich.console import Console

    from tinyengram.study.plan import load_study

    console = Console(stderr=True)
    plan = load_study(study)
    folder = out or Path("runs") / plan.name
    _prepare_process()
    from tinyengram.report.table import terminal_tables
    from tinyengram.study.run import help_training, run_study

    if int(os.environ.get("RANK", "0")):  # Set by `torchrun` and `accelerate launch`.
        help_training(plan, folder)
        return
    try:
        with _Live(console) as live:
            results = run_study(plan, folder, live.show)
    except KeyboardInterrupt as error:
        print("\nInterrupted. Run the same command to continue.", file=sys.stderr)
        raise typer.Exit(_EXIT_INTERRUPTED) from error
    output = Console(width=None if sys.stdout.isatty() else 150)
    for table in terminal_tables(results):
        output.print(table)
    output.print(results.finding, highlight=False)
    together = sum(results.seconds.values())
    phases = ", ".join(f"{name} {seconds:.0f} s" for name, seconds in results.seconds.items())
    output.print(f"Time: {together:.0f} s ({phases})", highlight=False)
    output.print(f"Report: {folder / 'report.html'}", highlight=False, soft_wrap=True)


@app.command()
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


def main() -> None:
    """Run the command line.

    An error that a user can act on ends with its message alone. Any other is a fault of the program or of a library:
    it ends in one line that names the file with its trace.
    """
    arguments = sys.argv[1:]
    debug = _DEBUG in arguments
    try:
        app(args=[argument for argument in arguments if argument != _DEBUG])
    except TinyEngramError as error:
        if debug:
            traceback.print_exc()
        print(f"tinyengram: {error}", file=sys.stderr)
        sys.exit(_EXIT_BAD_INPUT)
    except Exception as error:
        from tinyengram.files import keep_trace

        if debug:
            traceback.print_exc()
        reason = str(error).strip().splitlines()
        said = f"{type(error).__name__}{': ' + reason[0] if reason else ''}"
        print(
            f"tinyengram: this should not have happened: {said}. What was finished is kept; the full trace is in "
            f"{keep_trace(error)} ({_DEBUG} shows it).",
            file=sys.stderr,
        )
        sys.exit(_EXIT_ERROR)


def _prepare_process() -> None:
    """Settings of this process for long work on a CPU, and quiet libraries: the progress shown is our own."""
    import logging
    import warnings

    from tinyengram.hardware import keep_freed_memory

    keep_freed_memory()
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    warnings.filterwarnings("ignore", category=FutureWarning)
    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity_error()
    logging.getLogger("accelerate").setLevel(logging.ERROR)


class _Live:
    """Live progress on standard error: a bar in a terminal, a line now and then in a log."""

    def __init__(self, console: Console) -> None:
        from rich.progress import BarColumn, Progress, TextColumn

        self._console = console
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.completed:.0f}/{task.total:.0f}"),
            TextColumn("{task.fields[news]}"),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self._task: Any = None
        self._label = ""

    def __enter__(self) -> _Live:
        self._progress.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self._progress.__exit__(*error)

    def show(self, event: Event) -> None:
        """Show one piece of news."""
        from tinyengram.study.progress import PhaseEvent, ScoreEvent

        if isinstance(event, PhaseEvent):
            self._console.print(event.text, highlight=False)
        elif isinstance(event, ScoreEvent):
            self._advance(f"Scoring {event.label}", event.done, event.total, "")
            if event.done == event.total:
                self._console.print(f"Scored {event.label}: {event.total}", highlight=False)
        else:
            loss = "–" if event.loss is None else f"{event.loss:.4f}"
            news = f"loss {loss}  {event.tokens_per_second:.0f} tokens/s  {_time_left(event.seconds_left)}"
            self._advance(f"{event.arm}, seed {event.seed}", event.step, event.total_steps, news)
            if event.eval_loss is not None:
                self._console.print(
                    f"{event.arm}, seed {event.seed}, step {event.step}/{event.total_steps}: "
                    f"eval loss {event.eval_loss:.4f}  {news}",
                    highlight=False,
                    soft_wrap=True,
                )

    def _advance(self, label: str, done: int, total: int, news: str) -> None:
        if label != self._label:
            if self._task is not None:
                self._progress.remove_task(self._task)
            self._task, self._label = self._progress.add_task(label, total=total, news=news), label
        self._progress.update(self._task, completed=done, news=news)


def _time_left(seconds: float) -> str:
    if math.isnan(seconds):
        return ""
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d} left"
