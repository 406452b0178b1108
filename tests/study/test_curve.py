"""The curve of an arm: what it kept on its way from the base's loss to the matched one."""

from __future__ import annotations

import pytest

from tests.study.test_matching import trajectory
from tinyengram.scoring.scorer import Panel
from tinyengram.scoring.truthfulqa import QuestionScore, TruthfulQAScores
from tinyengram.study.comparing import Curve


def panel(*mc2: float) -> Panel:
    rows = [QuestionScore(id=str(at), mc1=0, mc2=value, margin=0, log_likelihoods={}) for at, value in enumerate(mc2)]
    return Panel(truthfulqa={"plain": TruthfulQAScores(rows=rows)}, accuracy={}, drift=None, calls=None, files={})


def test_the_mean_follows_the_curve_down_to_the_level() -> None:
    points = trajectory("lora", [4, 1, 2, 8]).points
    curve = Curve(points[0], panel(0.5, 0.2), "answer")
    for point, kept in zip(points[1:], (panel(0.1, 0.2), panel(0.3, 0.2), panel(9, 9)), strict=True):
        curve.add(point, kept)
    # From loss 4 by 2 to 1: two halves of the way in logarithms; a loss above the base's is no part of it.
    assert curve.mean_mc2("plain", 1) == pytest.approx([(0.4 + 0.2) / 2, 0.2])
    assert curve.mean_mc2("plain", 2) == pytest.approx([0.4, 0.2])
    with pytest.raises(ValueError, match="must lie below 4"):
        curve.mean_mc2("plain", 4)
