"""Pairs of equal loss: where an arm's first stop below the level is far below it, one between its stops is taken.

A stop every so many steps seldom falls near the reference's loss, and an arm that has learnt more has reason to have
forgotten more. Between the stop above the level and the one below it every adapter is a mixture of the two, and one is
looked for whose loss is at most the reference's and within 5% of it. Only losses are looked at.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

from tinyengram.files import read_model, write_atomically
from tinyengram.progress import Clock, Event, PhaseEvent
from tinyengram.study.matching import MatchedPair, eval_loss, is_close
from tinyengram.study.scaling import LossesOf, mixed_point
from tinyengram.training.job import BaseSpec
from tinyengram.training.trajectory import Trajectory, TrajectoryPoint

_MOST_TRIES = 8
_POINT = "point.json"


class Closer:
    """Looks for adapters between stops, and measures them.

    Args:
        base: What all arms were trained on.
        losses: Of a model on the held-out examples, ``(whole, answer)`` in nats per token.
        out: Run folder; what is found is kept in the job's own.
        clock: Notes how long it took.
        on_event: Told how it is going.
    """

    def __init__(
        self, base: BaseSpec, losses: LossesOf, out: Path, clock: Clock, on_event: Callable[[Event], None]
    ) -> None:
        self._base, self._losses, self._out = base, losses, out
        self._clock, self._on_event = clock, on_event

    def closer(self, pair: MatchedPair, run: Trajectory) -> tuple[MatchedPair, str]:
        """The pair, brought within 5% where that can be done.

        Args:
            pair: From :func:`tinyengram.study.matching.match`.
            run: The other arm's, whose stops it is from.

        Returns:
            The pair, and why its losses are still apart; empty where they are not.
        """
        from tinyengram.training.blending import CannotBlend

        if pair.close:
            return pair, ""
        above, folder = self._above(pair, run), self.folder_for(pair, run)
        if above is None or folder is None:
            return pair, "the stop before it has no higher loss to begin from"
        in_vain = folder.with_name(f"{folder.name}.none")  # Says why, so that it is not looked for again.
        if not self.settled(pair, run):
            why = f"{_MOST_TRIES} mixtures of the stops around it came no nearer"
            try:
                with self._clock.phase("match"):
                    self._look(pair, above, run, folder)
            except CannotBlend as refusal:
                why = str(refusal)
            if not folder.exists():
                write_atomically(in_vain, why)
        if not folder.exists():
            return pair, in_vain.read_text(encoding="utf-8")
        point = read_model(TrajectoryPoint, folder / _POINT, f"Delete {folder}: it is looked for anew then.")
        return MatchedPair(
            level=pair.level, reference=pair.reference, other=point, loss=eval_loss(point, run.loss_on)
        ), ""

    def settled(self, pair: MatchedPair, run: Trajectory) -> bool:
        """Whether there is nothing to look for: the pair is close, or it is known what can be had."""
        folder = self.folder_for(pair, run)
        return folder is None or folder.exists() or folder.with_name(f"{folder.name}.none").exists()

    def _above(self, pair: MatchedPair, run: Trajectory) -> TrajectoryPoint | None:
        """The stop before the pair's; None where its loss is no higher than the level."""
        # Not by its step, which stops that are scales of one adapter may share.
        above = run.points[run.points.index(pair.other) - 1]
        return above if eval_loss(above, run.loss_on) > pair.level else None

    def folder_for(self, pair: MatchedPair, run: Trajectory) -> Path | None:
        """Where an adapter between the stops is kept; None where none is looked for."""
        above = None if pair.close else self._above(pair, run)
        if above is None:
            return None
        return self._out / "jobs" / run.job / f"between-{above.step}-{pair.other.step}-at-{pair.level:.8g}"

    def _look(self, pair: MatchedPair, above: TrajectoryPoint, run: Trajectory, folder: Path) -> None:
        """Halve the way between the stops until a loss is close; keep the adapter, if there is one."""
        from tinyengram.training.blending import Blend

        below = pair.other
        start, end = (None if one.checkpoint is None else folder.parent / one.checkpoint for one in (above, below))
        assert end is not None
        line = Blend(self._base, start, end)
        self._on_event(PhaseEvent(f"Looking between steps {above.step} and {below.step} of {run.arm}"))
        low, high = 0.0, 1.0
        for _ in range(_MOST_TRIES):
            share = (low + high) / 2
            line.move(share)
            whole, answer = self._losses(line.model)
            loss = whole if run.loss_on == "whole" else answer
            if loss <= pair.level and is_close(loss, pair.level):
                point = mixed_point(above, below, share, (whole, answer), folder.name)
                line.save(folder, {_POINT: point.model_dump_json(indent=2)})
                return
            if loss > pair.level or math.isnan(loss):
                low = share
            else:
                high = share
