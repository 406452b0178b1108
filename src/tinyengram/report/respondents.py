"""Models whose answers a page shows side by side: where what each of them said is kept."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tinyengram.study.results import Measurement


@dataclass(frozen=True)
class Respondent:
    """One model: a checkpoint that was measured.

    Attributes:
        name: The arm, ``base``, or the evaluated model; unlike any other on the page.
        which: Which of its checkpoints, in words; empty where there is only one.
        folder: Of its run.
        choices: Files of scores by set (``truthfulqa``, or a choice set's name) and way of asking.
        calls: File of judged answers; None where none were asked for. Both relative to the folder.
    """

    name: str
    which: str
    folder: Path
    choices: Mapping[tuple[str, str], str]
    calls: str | None


def respondent(name: str, row: Measurement, folder: Path) -> Respondent:
    """What answered of a measured checkpoint.

    Args:
        name: Of the model on the page.
        row: Of a study, or an evaluation's base or model.
        folder: Of the run, relative to which the row names its files.
    """
    return Respondent(
        name=name,
        which="" if row.seed is None else f"seed {row.seed}, step {row.step}",
        folder=folder,
        choices={
            **{("truthfulqa", prompt): kept.scores_file for prompt, kept in row.retention.items()},
            **{
                (one_set, prompt): accuracy.file
                for one_set, by_prompt in row.accuracy.items()
                for prompt, accuracy in by_prompt.items()
            },
        },
        calls=None if row.calls is None else row.calls.file,
    )
