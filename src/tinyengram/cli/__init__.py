"""The command line: options become calls. Nothing heavy is imported before a command runs."""

from __future__ import annotations

import sys
import traceback
from typing import Annotated

import typer

from tinyengram.cli.chat import chat
from tinyengram.cli.compare import compare
from tinyengram.cli.data import data
from tinyengram.cli.edit import edit
from tinyengram.cli.evaluate import evaluate
from tinyengram.cli.exits import EXIT_BAD_INPUT, EXIT_FAULT
from tinyengram.cli.explain import explain
from tinyengram.cli.ngrams import ngrams
from tinyengram.cli.play import play
from tinyengram.cli.report import report
from tinyengram.cli.serve import serve
from tinyengram.cli.train import train
from tinyengram.errors import TinyEngramError
from tinyengram.processes import processes

_DEBUG = "--debug"
_TOGETHER = ("train", "compare")

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="Engram memory as a fine-tuning method, and the study of what fine-tuning methods learn and forget.",
)
for _command in (data, ngrams, train, evaluate, chat, explain, edit, play, serve, compare, report):
    app.command()(_command)


@app.callback()
def _options(
    debug: Annotated[bool, typer.Option(_DEBUG, help="Show the full trace of an error; may stand anywhere.")] = False,
) -> None:
    """What every command takes; :func:`main` reads it."""


def _refuse_together(arguments: list[str]) -> None:
    """Refuse several processes, as ``torchrun`` starts them, for what they would each do whole."""
    command = next((argument for argument in arguments if not argument.startswith("-")), "")
    if processes() > 1 and command not in ("", *_TOGETHER) and "--help" not in arguments:
        raise TinyEngramError(
            f"{processes()} processes were started (torchrun or accelerate launch), and only {' and '.join(_TOGETHER)} "
            "share their work among several. Start one."
        )


def main() -> None:
    """Run the command line.

    An error that a user can act on ends with its message alone. Any other is a fault of the program or of a library:
    it ends in one line that names the file with its trace.
    """
    arguments = sys.argv[1:]
    debug = _DEBUG in arguments
    try:
        _refuse_together(arguments)
        app(args=[argument for argument in arguments if argument != _DEBUG])
    except TinyEngramError as error:
        if debug:
            traceback.print_exc()
        print(f"tinyengram: {error}", file=sys.stderr)
        sys.exit(EXIT_BAD_INPUT)
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
        sys.exit(EXIT_FAULT)
