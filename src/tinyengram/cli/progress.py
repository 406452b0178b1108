"""A process that does long work and shows it."""

from __future__ import annotations

import math
import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console

    from tinyengram.progress import Event


def prepare_process() -> None:
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


class Live:
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

    def __enter__(self) -> Live:
        self._progress.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self._progress.__exit__(*error)

    def show(self, event: Event) -> None:
        """Show one piece of news."""
        from tinyengram.progress import PhaseEvent, ScoreEvent

        if isinstance(event, PhaseEvent):
            self._console.print(event.text, highlight=False, markup=False, soft_wrap=True)
        elif isinstance(event, ScoreEvent):
            self._advance(f"Scoring {event.label}", event.done, event.total, "")
            if event.done == event.total:
                self._console.print(f"Scored {event.label}: {event.total}", highlight=False, markup=False)
        else:
            loss = "–" if event.loss is None else f"{event.loss:.4f}"
            news = f"loss {loss}  {event.tokens_per_second:.0f} tokens/s  {_time_left(event.seconds_left)}"
            self._advance(f"{event.arm}, seed {event.seed}", event.step, event.total_steps, news)
            if event.eval_loss is not None:
                self._console.print(
                    f"{event.arm}, seed {event.seed}, step {event.step}/{event.total_steps}: "
                    f"eval loss {event.eval_loss:.4f}  {news}",
                    highlight=False,
                    markup=False,
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
