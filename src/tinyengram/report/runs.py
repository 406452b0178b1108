"""Finished runs of ``compare``, ``train`` and ``evaluate`` as parts of a page, and several of them on one page."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from tinyengram.errors import TinyEngramError
from tinyengram.files import read_model
from tinyengram.report.columns import Column, evaluation_columns, study_columns
from tinyengram.report.palette import arm_styles
from tinyengram.sources.provenance import Provenance
from tinyengram.study.evaluation import Evaluation
from tinyengram.study.results import DataAccount, Measurement, Results, RunProvenance

_SAME_BASE = 1e-3
"""Share by which two runs may differ in what they measured of the base: threads and machines round differently."""

_REMEDY = "Run the same command again, which writes it anew from what is kept beside it."


@dataclass(frozen=True)
class Run:
    """A finished run and its folder."""

    folder: Path
    content: Results | Evaluation

    @property
    def name(self) -> str:
        """Of the study, or of the model that was evaluated."""
        return self.content.study.name if isinstance(self.content, Results) else self.content.model.arm

    @property
    def base(self) -> Measurement:
        """What was measured of the base."""
        return self.content.measurements[0] if isinstance(self.content, Results) else self.content.base

    def columns(self) -> list[Column]:
        """The base and what is compared with it."""
        if isinstance(self.content, Results):
            return study_columns(self.content, self.folder)
        return evaluation_columns(self.content, self.folder)


def load_run(folder: Path) -> Run:
    """Read what ``compare``, ``train`` or ``evaluate`` wrote.

    Raises:
        TinyEngramError: The folder holds no finished run, or its file is damaged.
    """
    for place in (folder, folder / "run"):  # ``train`` keeps its run beside the adapter.
        if (file := place / "results.json").is_file():
            return Run(place, read_model(Results, file, _REMEDY))
        if (file := place / "evaluation.json").is_file():
            return Run(place, read_model(Evaluation, file, _REMEDY))
    raise TinyEngramError(
        f"{folder} holds neither results.json nor evaluation.json: give the folder of a finished run of compare, train "
        "or evaluate."
    )


def joined_columns(runs: Sequence[Run]) -> tuple[list[Column], list[dict[str, Column]]]:
    """The columns of several runs beside one base, each with a name and a colour of its own.

    Args:
        runs: At least one.

    Returns:
        All columns, and for each run its own by the name that an arm has there.

    Raises:
        TinyEngramError: Two runs did not measure the same base on the same data with the same questions: names what
            differs.
    """
    first, *others = runs
    for other in others:
        _refuse_other(first, other)
    of_each = [run.columns() for run in runs]
    taken = [column.name for columns in of_each for column in columns[1:]]
    together, by_arm = [of_each[0][0]], []
    names = [
        [_unlike(column.name, run, at, taken) for column in columns[1:]]
        for at, (run, columns) in enumerate(zip(runs, of_each, strict=True), start=1)
    ]
    styles = arm_styles([name for of_run in names for name in of_run])
    for columns, of_run in zip(of_each, names, strict=True):
        own = {
            column.name: replace(column, name=name, style=styles[name])
            for column, name in zip(columns[1:], of_run, strict=True)
        }
        together += own.values()
        by_arm.append(own)
    return together, by_arm


def _unlike(name: str, run: Run, at: int, taken: Sequence[str]) -> str:
    """The name itself where it is the only one and not the base's, else with that of its run and the run's place."""
    return name if taken.count(name) == 1 and name != "base" else f"{name} ({run.name}, {at})"


def _refuse_other(first: Run, other: Run) -> None:
    ours, theirs = _measured_on(first), _measured_on(other)
    for what, mine in ours.items():
        if mine != theirs[what]:
            raise TinyEngramError(
                f"{first.folder} and {other.folder} do not stand on one page: {what} is {mine!r} in one and "
                f"{theirs[what]!r} in the other. Join runs that measured the same base on the same data."
            )
    for what, mine, its in (
        ("eval loss on answers", first.base.eval_loss_answer, other.base.eval_loss_answer),
        *((f"MC2, {name}", kept.mc2, other.base.retention[name].mc2) for name, kept in first.base.retention.items()),
    ):
        if not math.isclose(mine, its, rel_tol=_SAME_BASE):
            raise TinyEngramError(
                f"{first.folder} and {other.folder} do not stand on one page: the base's {what} is {mine:.5f} in one "
                f"and {its:.5f} in the other, so they did not measure the same. Run one of them anew."
            )


def _checksum(source: Provenance) -> str:
    """The beginning of its checksum, or its name where there is none."""
    return source.sha256[:12] if source.sha256 else source.public_name


def _measured_on(run: Run) -> dict[str, object]:
    data: DataAccount = run.content.data
    provenance: RunProvenance = run.content.provenance
    calls = run.base.calls
    return {
        "the base, by its sha256 or name,": _checksum(provenance.base),
        "the data, by its sha256 or name,": _checksum(data.data),
        "the number of held-out texts": data.eval_examples,
        "the rendering": data.rendering,
        "the questions": data.question_label,
        "what is asked in": ", ".join(run.base.retention),
        "the choice sets": "; ".join(one.label for one in data.choice_sets.values()),
        "the general text": data.texts_label,
        "the number of calls": None if calls is None else (calls.wanted_asked, calls.unwanted_asked),
    }
