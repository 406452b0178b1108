"""What a scorecard's columns are: the base, and each arm of a study, or each model that was evaluated."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tinyengram.report.palette import ArmStyle, arm_styles
from tinyengram.study.evaluation import Evaluation
from tinyengram.study.finding import loss_of, matching_notes
from tinyengram.study.matching import eval_loss
from tinyengram.study.results import Comparison, Measurement, Results


@dataclass(frozen=True)
class Column:
    """One model of a scorecard.

    Attributes:
        name: Unlike any other on the page.
        rows: What was measured of it, one a seed; none of an arm that never came down to the reference's loss.
        style: How it is drawn; None: the base.
        folder: Of its run, in which the files that ``rows`` name lie.
        against: Whom its figures are judged against: the reference, ``base``, or nobody (the reference itself).
        comparison: With the reference at matched loss; None where there is nothing to compare with.
        pair: Mean eval losses that were matched, its own and the reference's.
        note: What a reader must know of it before he compares.
    """

    name: str
    rows: list[Measurement]
    style: ArmStyle | None
    folder: Path
    against: str = ""
    comparison: Comparison | None = None
    pair: tuple[float, float] | None = None
    note: str = ""

    @property
    def is_base(self) -> bool:
        return self.style is None

    @property
    def css_class(self) -> str:
        """That gives what is drawn of it its colour."""
        return self.style.css_class if self.style else "arm-base"


def study_columns(results: Results, folder: Path) -> list[Column]:
    """The base, the reference after its last step, and each other arm where its loss is matched with that arm's."""
    styles, reference = arm_styles(list(results.study.arms)), results.study.reference
    columns = [Column("base", results.measurements[:1], None, folder)]
    compared = {one.arm: one for one in results.comparisons}
    for arm in results.study.arms:
        role = "last" if arm == reference else "matched"
        rows = [row for row in results.measurements if (row.arm, row.role) == (arm, role)]
        note, pair, comparison = "", None, compared.get(arm)
        if arm == reference and compared:
            note = "after its last step; the others where their loss is matched with one of its checkpoints'"
        elif not rows:
            note = f"never reached {reference}'s loss: {_last_losses(results, arm)} at the end"
            comparison = None
        elif comparison is not None and comparison.missed:
            note = f"did not reach {reference}'s loss with seed {', '.join(map(str, comparison.missed))}"
        if comparison is not None:
            note = "; ".join([*([note] if note else []), *matching_notes(results, comparison)])
            pair = _pair(results, rows, arm)
        against = "base" if not compared else "" if arm == reference else reference
        columns.append(Column(arm, rows, styles[arm], folder, against, comparison, pair, note))
    return columns


def evaluation_columns(found: Evaluation, folder: Path) -> list[Column]:
    """The base and the model."""
    return [
        Column("base", [found.base], None, folder),
        Column(found.model.arm, [found.model], arm_styles([found.model.arm])[found.model.arm], folder, "base"),
    ]


def _pair(results: Results, rows: list[Measurement], arm: str) -> tuple[float, float]:
    theirs = [row for row in results.measurements if row.role == "matched reference" and row.matched_with == arm]
    ours, others = ([loss_of(results, row) for row in side] for side in (rows, theirs))
    return sum(ours) / len(ours), sum(others) / len(others)


def _last_losses(results: Results, arm: str) -> str:
    ends = [eval_loss(run.points[-1], run.loss_on) for run in results.trajectories if run.arm == arm]
    return " and ".join(f"{loss:.3f}" for loss in ends)
