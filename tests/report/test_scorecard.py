"""A scorecard says what the intervals say: worse and better only where zero is outside; and when nothing was learnt."""

from __future__ import annotations

import pytest

from tests.report.test_report import difference, measurement
from tinyengram.report.scorecard import in_words, score_lines, scorecard_markdown
from tinyengram.study.results import Measurement

BASE = measurement("base", "base", 0, 2.0, None)


def model(low: float, high: float, loss: float = 0.5) -> Measurement:
    return measurement("mine", "model", 10, loss, difference((low + high) / 2, low, high))


@pytest.mark.parametrize(
    ("low", "high", "verdict"), [(-0.1, -0.02, "worse"), (0.02, 0.1, "better"), (-0.02, 0.1, "not shown")]
)
def test_a_verdict_follows_the_interval(low: float, high: float, verdict: str) -> None:
    lines = [line for line in score_lines(BASE, model(low, high)) if "MC2" in line.label]
    assert lines
    assert {line.verdict for line in lines} == {verdict}
    said = in_words(BASE, model(low, high))
    assert ("Shown to be worse" in said) == (verdict == "worse")
    assert ("Shown to be better" in said) == (verdict == "better")


def test_what_learnt_nothing_is_said_to() -> None:
    assert in_words(BASE, model(-0.1, 0.1, loss=2.1)).startswith("Nothing was learnt")
    assert in_words(BASE, model(-0.1, 0.1)).startswith("Loss on the answers fell from 2.000 to 0.500")


def test_markdown_holds_every_line() -> None:
    lines, text = score_lines(BASE, model(-0.1, 0.1)), scorecard_markdown(BASE, model(-0.1, 0.1))
    assert all(f"| {line.label} | {line.base} | {line.model} |" in text for line in lines)
    assert len(text.splitlines()) == len(lines) + 2
