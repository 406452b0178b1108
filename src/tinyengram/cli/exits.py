"""How a command ends: one exit code for each kind of end."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

import typer

EXIT_FAULT, EXIT_BAD_INPUT, EXIT_INTERRUPTED = 1, 2, 130


@contextmanager
def interruptible(said: str) -> Iterator[None]:
    """Ctrl-C ends the command with ``said`` on standard error and :data:`EXIT_INTERRUPTED`."""
    try:
        yield
    except KeyboardInterrupt as error:
        print(f"\n{said}", file=sys.stderr)
        raise typer.Exit(EXIT_INTERRUPTED) from error
