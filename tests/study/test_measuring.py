"""Differences between pairs of panels are paired by request, as they are by question."""

from __future__ import annotations

import pytest

from tests.study.test_curve import panel
from tinyengram.scoring.calls import CallScores
from tinyengram.scoring.scorer import Panel
from tinyengram.study.measuring import Differences
from tinyengram.tasks.calls.judging import CallVerdict, Outcome


def judged(wanted: list[Outcome], unwanted: list[Outcome]) -> Panel:
    def verdicts(outcomes: list[Outcome]) -> list[CallVerdict]:
        return [
            CallVerdict(id="c", text="", outcome=outcome, format=None, functions=False, content_right=False)
            for outcome in outcomes
        ]

    one = panel(0.5)
    return Panel(
        truthfulqa=one.truthfulqa,
        accuracy={},
        drift=None,
        calls=CallScores(wanted=verdicts(wanted), unwanted=verdicts(unwanted)),
        files={},
    )


def test_calls_are_compared_request_by_request() -> None:
    before = judged(["right call", "wrong call", "wrong call", "right call"], ["wrong call", "wrong call"])
    after = judged(["right call", "right call", "wrong call", "right call"], ["declines in prose", "wrong call"])
    found = Differences([(before, after)], 2)
    right, declines = found.right_calls(), found.declines()
    assert right is not None
    assert declines is not None
    assert (right.mean, right.questions, right.comparisons) == (0.25, 4, 2)
    assert (declines.mean, declines.questions) == (0.5, 2)
    assert right.low == 0
    assert right.high > 0.25


@pytest.mark.parametrize("unwanted", [None, []])
def test_where_none_were_asked_nothing_is_said(unwanted: list[Outcome] | None) -> None:
    one = panel(0.5) if unwanted is None else judged(["right call"], unwanted)
    assert Differences([(one, one)], 1).declines() is None
    assert Differences([], 1).right_calls() is None


def test_right_answers_are_unchanged_where_no_likelihood_moved() -> None:
    first, moved = panel(0.5, 0.2, 0.3), panel(0.5, 0.2, 0.3)
    found = Differences([(first, panel(0.5, 0.2, 0.3))] * 2, 3).truthfulqa("mc1")["plain"]
    assert found.unchanged
    assert (found.mean, found.questions, found.seeds, found.comparisons, found.p_value) == (0, 3, 2, 3, None)
    assert not found.shown
    moved.truthfulqa["plain"].rows[1].log_likelihoods["yes"] = -1.0
    found = Differences([(first, moved)], 3).truthfulqa("mc1")["plain"]
    assert not found.unchanged
    assert (found.mean, found.not_estimated) == (0, "")
    assert found.low < 0 < found.high


@pytest.mark.parametrize("measure", ["shift", "shift_centred"])
def test_shifts_are_unchanged_where_both_moved_alike_to_the_bit(measure: str) -> None:
    """Zeros of two models that moved nothing are no shares of right answers, and have no interval."""
    base = panel(0.5, 0.2, 0.3)
    found = getattr(Differences([(panel(0.5, 0.2, 0.3), panel(0.5, 0.2, 0.3))], 1), measure)(base)["plain"]
    assert (found.unchanged, found.mean) == (True, 0)
