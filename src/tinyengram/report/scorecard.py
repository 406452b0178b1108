"""What was learnt, what broke and how far answers moved, in one table: for page, terminal and model card."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Literal

from tinyengram.report.columns import Column
from tinyengram.report.measures import Group, Measure, measures
from tinyengram.study.statistics import Difference

Verdict = Literal["better", "worse", "not shown", "same", "too few", ""]

_ENOUGH_QUESTIONS = 10
"""Of fewer an interval says nothing, so none is judged."""
_NOTHING = "–"
_NO_VERDICT: Verdict = ""
_SAID: dict[Verdict, str] = {
    "better": ", shown",
    "worse": ", shown",
    "not shown": ", not shown",
    "same": "",
    "too few": ", too few questions",
    "": "",
}


@dataclass(frozen=True)
class Cell:
    """One figure of one model.

    Attributes:
        text: The mean over seeds; ``–`` where nothing was measured.
        share: Of the longest bar of its line, 0 to 1; None: no bar.
        change: From the base with its interval, or against the reference where there is one; empty where none is known.
        verdict: Whether that change is shown, and for the better or worse; empty where no interval says.
        details: Sentences: each seed, what changed from the base, what differs from the reference.
    """

    text: str
    share: float | None = None
    change: str = ""
    verdict: Verdict = ""
    details: tuple[str, ...] = ()

    @property
    def dot(self) -> str:
        """A filled dot: a difference is shown; an empty one: it is not."""
        return {"better": "●", "worse": "●", "not shown": "○"}.get(self.verdict, "")


@dataclass(frozen=True)
class Line:
    """One measure of all models.

    Attributes:
        group: Which question it answers.
        id: For an anchor.
        label: What was measured, and how it was asked.
        unit: Of the figures, or of how many; may be empty.
        cells: One a column.
    """

    group: Group
    id: str
    label: str
    unit: str
    cells: tuple[Cell, ...]


@dataclass(frozen=True)
class Scorecard:
    """Columns, the base first, and lines."""

    columns: list[Column]
    lines: list[Line]

    @property
    def of_one_model(self) -> bool:
        """Whether one model stands beside its base, so that there is room for what changed."""
        return len(self.columns) == 2

    @property
    def legend(self) -> str:
        """What the dots say."""
        compared = dict.fromkeys(column.against for column in self.columns if column.against)
        whom = (
            " or ".join("the base" if name == "base" else f"{name} at matched loss" for name in compared) or "the base"
        )
        return f"●: its difference from {whom} is shown; ○: it is not; neither: no interval was taken."


def scorecard(columns: Sequence[Column]) -> Scorecard:
    """The scorecard of models that were measured alike; the base is the first column."""
    kept = [one for column in columns for row in column.rows for one in row.retention.values()]
    known = any(one.shift_centred is not None for one in kept)
    told = measures(columns[0].rows[0], centred=known or all(one.shift is None for one in kept))
    lines = [Line(one.group, one.id, one.label, one.unit, _cells(one, columns)) for one in told]
    return Scorecard(list(columns), lines)


def _cells(measure: Measure, columns: Sequence[Column]) -> tuple[Cell, ...]:
    values = [
        {row.seed: value for row in column.rows if (value := measure.read(row)) is not None} for column in columns
    ]
    means = [fmean(one.values()) if one else math.nan for one in values]
    longest = 1.0 if measure.is_share else max((mean for mean in means if math.isfinite(mean)), default=0.0)
    return tuple(
        _cell(measure, column, found, mean, mean / longest if longest > 0 else 0.0, means[0])
        if found
        else Cell(_NOTHING, details=(column.note,) if column.note and not column.rows else ())
        for column, found, mean in zip(columns, values, means, strict=True)
    )


def _cell(
    measure: Measure, column: Column, seeds: dict[int | None, float], mean: float, share: float, base: float
) -> Cell:
    details: list[str] = []
    change, verdict = "", _NO_VERDICT
    if len(seeds) > 1:
        told = ", ".join(f"{seed}: {measure.write(value)}" for seed, value in seeds.items())
        details.append(f"Seeds {told}.")
    deltas = [delta for row in column.rows if (delta := measure.from_base(row)) is not None]
    if not column.is_base and math.isfinite(base):
        change = measure.change(mean - base)
        if len(deltas) == 1:
            change = _with_interval(deltas[0], measure.change)
            verdict = _verdict(deltas[0], measure.higher_is)
        elif deltas and all(delta.unchanged for delta in deltas):
            change = f"{deltas[0].bounds(measure.change)}, with every seed"
        elif len(deltas) > 1:
            spread = [delta.mean for delta in deltas]
            change += f" ({measure.change(min(spread))} to {measure.change(max(spread))} over seeds)"
        details.append(f"From the base: {change}{_SAID[verdict]}.")
    if column.against != "base":
        change, verdict = "", _NO_VERDICT
    if column.comparison is not None:
        reference = column.comparison.reference
        if (against := measure.against(column.comparison)) is not None:
            change, verdict = _with_interval(against, measure.change), _verdict(against, measure.higher_is)
            together = f", intervals of {against.comparisons} arms together" if against.comparisons > 1 else ""
            of_what = "" if against.not_estimated else f" (95%{together})"
            details.append(f"Against {reference} at matched loss: {change}{_SAID[verdict]}{of_what}.")
        if column.pair is not None:
            details.append(f"Eval losses of the pair: {column.pair[0]:.4f}, {reference} {column.pair[1]:.4f}.")
    if column.note:
        details.append(f"{column.name}: {column.note}.")
    return Cell(measure.write(mean), min(max(share, 0.0), 1.0), change, verdict, tuple(details))


def _with_interval(difference: Difference, write: Callable[[float], str]) -> str:
    if difference.unchanged:
        return difference.bounds(write)
    return f"{write(difference.mean)} ({difference.bounds(write)})"


def _verdict(difference: Difference, higher_is: str) -> Verdict:
    if difference.unchanged:
        return "same"
    if difference.questions < _ENOUGH_QUESTIONS:
        return "too few"
    if difference.not_estimated:
        return _NO_VERDICT
    if not difference.shown:
        return "not shown"
    return "better" if (difference.mean > 0) == (higher_is == "better") else "worse"
