"""Checkpoints of equal eval loss: the conservative pair of the experiment, chosen by losses alone."""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import BaseModel

from tinyengram.training import Trajectory, TrajectoryPoint


class MatchedPair(BaseModel):
    """The reference's checkpoint that sets the level, and the other arm's first checkpoint at or below it."""

    level: float
    reference: TrajectoryPoint
    other: TrajectoryPoint


def eval_loss(point: TrajectoryPoint, loss_on: str) -> float:
    """The loss that was trained: over the whole text or over the answer."""
    return point.eval_loss_whole if loss_on == "whole" else point.eval_loss_answer


def trained(points: Sequence[TrajectoryPoint]) -> list[TrajectoryPoint]:
    """Points with a checkpoint: all but the base itself."""
    return [point for point in points if point.checkpoint is not None]


def match(reference: Trajectory, other: Trajectory) -> MatchedPair | None:
    """Match ``other`` to ``reference`` at the deepest level that both reach.

    The level is the lowest eval loss among the reference's checkpoints that the other arm also gets down to; the
    matched checkpoint is the other arm's *first* with a loss at or below it. So the other arm has always learned at
    least as much. Only losses are looked at, never what was forgotten.

    Returns:
        The pair, or None when the other arm reaches no checkpoint of the reference.
    """
    loss_on = reference.loss_on
    others = trained(other.points)
    lowest = min((eval_loss(point, loss_on) for point in others), default=float("inf"))
    reached = [point for point in trained(reference.points) if eval_loss(point, loss_on) >= lowest]
    if not reached:
        return None
    level_point = min(reached, key=lambda point: eval_loss(point, loss_on))
    level = eval_loss(level_point, loss_on)
    first = next(point for point in others if eval_loss(point, loss_on) <= level)
    return MatchedPair(level=level, reference=level_point, other=first)
