"""What a run folder holds beside its results, read for a page; what is missing is said, what is damaged is refused."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel

from tinyengram.errors import TinyEngramError
from tinyengram.files import read_model
from tinyengram.scoring.asked import asked_file

T = TypeVar("T", bound=BaseModel)

_AGAIN = "Delete it and run the same command again, which writes it anew."


def why_missing(scores: Sequence[tuple[Path, str]]) -> str | None:
    """Why answers cannot be shown, in one sentence; None where scores and what they answer are all there.

    Args:
        scores: Run folders with files of scores relative to them.
    """
    for needed in (scores, [(folder, asked_file(file)) for folder, file in scores]):
        missing = list(dict.fromkeys(file for folder, file in needed if not (folder / file).is_file()))
        if missing:
            more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
            return (
                f"Not shown: the run folder does not hold {missing[0]}{more}, as runs of earlier versions do not. The "
                "same command, run again, adds what is missing."
            )
    return None


def read_asked(schema: type[T], folder: Path, scores_file: str) -> T:
    """What a file of scores answers.

    Raises:
        TinyEngramError: It is damaged.
    """
    return read_model(schema, folder / asked_file(scores_file), _AGAIN)


def read_scores(schema: type[T], folder: Path, scores_file: str) -> T:
    """A file of scores.

    Raises:
        TinyEngramError: It is damaged.
    """
    return read_model(schema, folder / scores_file, _AGAIN)


def mismatch(folder: Path, scores_file: str) -> TinyEngramError:
    """The error where scores are not those of what was asked."""
    return TinyEngramError(
        f"{folder / scores_file} does not answer what {folder / asked_file(scores_file)} asks: one of them was edited. "
        "Delete both and run the same command again, which writes them anew."
    )
