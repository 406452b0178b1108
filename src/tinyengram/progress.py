"""What a run tells while it works, and how long its phases took."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tinyengram.files import write_atomically


@dataclass(frozen=True)
class PhaseEvent:
    """A part of the run begins."""

    text: str


@dataclass(frozen=True)
class ScoreEvent:
    """Questions answered so far by one checkpoint."""

    label: str
    done: int
    total: int


@dataclass(frozen=True)
class StepEvent:
    """News of a running arm. ``eval_loss`` (of the loss that is trained) only comes at stops."""

    arm: str
    seed: int
    step: int
    total_steps: int
    loss: float | None
    tokens_per_second: float
    seconds_left: float
    eval_loss: float | None


Event = PhaseEvent | ScoreEvent | StepEvent


class Clock:
    """Wall time by phase, added up over all calls that worked on a run.

    Args:
        file: Keeps it; None: nothing is kept.
    """

    def __init__(self, file: Path | None) -> None:
        self._file = file
        self.seconds = {} if file is None else _read(file)

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        begun = time.monotonic()
        try:
            yield
        finally:
            self.add({name: time.monotonic() - begun})

    def add(self, seconds: Mapping[str, float]) -> None:
        """Time that passed, by phase: here, or in another process."""
        for name, more in seconds.items():
            self.seconds[name] = self.seconds.get(name, 0.0) + more
        if self._file is not None:
            write_atomically(self._file, json.dumps(self.seconds, indent=2))


def _read(file: Path) -> dict[str, float]:
    """What was noted before; of a damaged file nothing, since times are all that it held."""
    try:
        return {name: float(seconds) for name, seconds in json.loads(file.read_text()).items()}
    except (OSError, ValueError, TypeError, AttributeError):
        return {}
