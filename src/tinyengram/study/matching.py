"""Checkpoints of equal eval loss: the conservative pairs of the experiment, chosen by losses alone."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import fmean

from pydantic import BaseModel

from tinyengram.study.frontier import record_lows
from tinyengram.training import Trajectory, TrajectoryPoint

CLOSE = 0.05
"""Losses of a pair that differ by a larger share are not equal, and everything that is written of it says so."""


class MatchedPair(BaseModel):
    """The reference's checkpoint that sets the level, and the other arm's first checkpoint at or below it.

    Attributes:
        level: The reference's loss, in nats per token.
        reference, other: The checkpoints.
        loss: The other arm's loss.
    """

    level: float
    reference: TrajectoryPoint
    other: TrajectoryPoint
    loss: float

    @property
    def apart(self) -> float:
        """How far the other arm's loss is from the reference's, as a share of it; below zero where it is lower."""
        return apart(self.loss, self.level)

    @property
    def close(self) -> bool:
        """Whether the two have learnt equally much, to within :data:`CLOSE`."""
        return is_close(self.loss, self.level)


def apart(loss: float, level: float) -> float:
    """How far a loss is from another, as a share of it; infinite where there is nothing to be a share of."""
    return loss / level - 1 if level else 0.0 if loss == level else math.inf


def is_close(loss: float, level: float) -> bool:
    """Whether two losses are equal to within :data:`CLOSE`."""
    return abs(apart(loss, level)) <= CLOSE


def eval_loss(point: TrajectoryPoint, loss_on: str) -> float:
    """The loss that was trained: over the whole text or over the answer."""
    return point.eval_loss_whole if loss_on == "whole" else point.eval_loss_answer


def trained(points: Sequence[TrajectoryPoint]) -> list[TrajectoryPoint]:
    """Points with a checkpoint: all but the base itself."""
    return [point for point in points if point.checkpoint is not None]


def late_train_loss(trajectory: Trajectory) -> float:
    """Mean training loss at the stops in the second half of a run, by which learning rates are chosen.

    It sees nothing held out. Infinity for a run that broke down, so that it is never chosen.
    """
    stops = trained(trajectory.points)
    losses = [math.nan if point.train_loss is None else point.train_loss for point in stops]
    late = [loss for loss, point in zip(losses, stops, strict=True) if 2 * point.step > stops[-1].step]
    sound = trajectory.broke_down_at is None and stops and all(map(math.isfinite, losses))
    return fmean(late) if sound else math.inf


def best_of(tried: Sequence[Trajectory]) -> Trajectory:
    """The run whose learning rate is taken for every seed, of one seed's runs with several."""
    return min(tried, key=late_train_loss)


def match(reference: Trajectory, other: Trajectory, levels: int = 1) -> list[MatchedPair]:
    """Match ``other`` to ``reference`` at levels of loss that both reach, the deepest first.

    The levels are eval losses of those reference checkpoints that the other arm also gets down to, each below the ones
    before it; of more than ``levels`` evenly spaced ones are taken, the deepest always. At each level the matched
    checkpoint is the other arm's *first* with a loss at or below it. So the other arm has always learned at least as
    much; :mod:`tinyengram.study.closing` brings a pair nearer whose losses are far apart. Only losses are looked at,
    never what was forgotten.

    Args:
        reference: The arm that sets the levels.
        other: The arm that is matched.
        levels: Most levels.

    Returns:
        The pairs; none when the other arm reaches no checkpoint of the reference.
    """

    def loss(point: TrajectoryPoint) -> float:
        return eval_loss(point, reference.loss_on)

    others, stops = (
        [point for point in trained(run.points) if math.isfinite(loss(point))] for run in (other, reference)
    )
    lowest = min((loss(point) for point in others), default=float("inf"))
    shared = [point for point in stops if loss(point) >= lowest]
    records = [shared[index] for index in record_lows([loss(point) for point in shared])]
    taken = min(levels, len(records))
    chosen = [records[(index + 1) * len(records) // taken - 1] for index in reversed(range(taken))]
    pairs = [(point, next(one for one in others if loss(one) <= loss(point))) for point in chosen]
    return [MatchedPair(level=loss(point), reference=point, other=one, loss=loss(one)) for point, one in pairs]
