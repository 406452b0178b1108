"""A scorecard says what the intervals say: worse and better only where zero is outside; and when nothing was learnt."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.report.samples import calls, difference, measurement
from tinyengram.report.columns import Column, study_columns
from tinyengram.report.page import render_page
from tinyengram.report.palette import ArmStyle
from tinyengram.report.plain import scorecard_markdown, scorecard_table
from tinyengram.report.runs import Run
from tinyengram.report.scorecard import Scorecard, scorecard
from tinyengram.report.telling import headline, in_words
from tinyengram.study.finding import describe_finding
from tinyengram.study.results import Measurement, Results
from tinyengram.study.statistics import paired_difference
from tinyengram.training.trajectory import Between

BASE = measurement("base", "base", 0, 2.0, None)
HERE = Path("run")


def card(low: float, high: float, loss: float = 0.5) -> Scorecard:
    model = measurement("mine", "model", 10, loss, difference((low + high) / 2, low, high))
    return of(BASE, model)


def of(base: Measurement, *models: Measurement) -> Scorecard:
    columns = [Column(one.arm, [one], ArmStyle(0, "circle", ""), HERE, "base") for one in models]
    return scorecard([Column("base", [base], None, HERE), *columns])


@pytest.mark.parametrize(
    ("low", "high", "verdict", "dot"),
    [(-0.1, -0.02, "worse", "●"), (0.02, 0.1, "better", "●"), (-0.02, 0.1, "not shown", "○")],
)
def test_a_verdict_follows_the_interval(low: float, high: float, verdict: str, dot: str) -> None:
    lines = [line for line in card(low, high).lines if "MC2" in line.label]
    assert lines
    assert {(line.cells[1].verdict, line.cells[1].dot) for line in lines} == {(verdict, dot)}
    words = in_words(card(low, high))
    assert ("Shown to be worse" in words) == (verdict == "worse")
    assert ("Shown to be better" in words) == (verdict == "better")


def test_few_questions_judge_nothing() -> None:
    few = difference(-0.06, -0.1, -0.02).model_copy(update={"questions": 9})
    found = of(BASE, measurement("mine", "model", 10, 0.5, few))
    line = next(line for line in found.lines if line.id == "mc2-chat")
    assert (line.cells[1].verdict, line.cells[1].dot) == ("too few", "")


def test_what_learnt_nothing_is_said_to() -> None:
    assert in_words(card(-0.1, 0.1, loss=2.1)).startswith("Nothing was learnt")
    assert in_words(card(-0.1, 0.1)).startswith("Loss on the answers fell from 2.000 to 0.500")


def test_markdown_and_terminal_hold_every_line() -> None:
    found = card(-0.1, 0.1)
    text = scorecard_markdown(found)
    for line in found.lines:
        assert f"| {line.label} ({line.unit}) | {line.cells[0].text} | {line.cells[1].text} |" in text
    assert len(text.splitlines()) == len(found.lines) + 2
    assert scorecard_table(found).row_count == len(found.lines)


def test_a_name_cannot_break_the_markdown() -> None:
    model = measurement("a|b<img>", "model", 10, 0.5, difference(0, -0.1, 0.1))
    rows = [line for line in scorecard_markdown(of(BASE, model)).splitlines() if line.startswith("|")]
    assert len({line.replace("\\|", "").count("|") for line in rows}) == 1
    assert "<img>" not in "".join(rows)


def test_bars_are_shares_of_the_longest() -> None:
    first = measurement("first", "model", 10, 0.5, difference(0, -0.1, 0.1))
    second = first.model_copy(deep=True, update={"arm": "second"})
    second.retention["plain"].shift = 5.0
    lines = {line.id: line for line in of(BASE, first, second).lines}
    assert [cell.share for cell in lines["loss-answer"].cells] == [1.0, 0.25, 0.25]
    assert [cell.share for cell in lines["shift-plain"].cells] == [None, 0.25, 1.0]
    assert lines["mc2-plain"].cells[0].share == pytest.approx(0.4), "a share is drawn as it is"


def test_centred_and_raw_shifts_never_share_a_line() -> None:
    old = measurement("old", "model", 10, 0.5, difference(0, -0.1, 0.1))
    new = old.model_copy(deep=True, update={"arm": "new"})
    new.retention["plain"].shift_centred = 0.125
    alone = {line.id: line for line in of(BASE, old).lines}["shift-plain"]
    assert (alone.unit, alone.cells[1].text) == ("nats, raw", "1.25")
    beside = {line.id: line for line in of(BASE, old, new).lines}["shift-plain"]
    assert (beside.unit, [cell.text for cell in beside.cells]) == ("nats, centred", ["–", "–", "0.12"])


def test_an_arm_is_judged_against_the_reference_and_the_reference_against_nobody(results: Results) -> None:
    lines = {line.id: line for line in scorecard(study_columns(results, HERE)).lines}
    base, lora, engram = lines["mc2-chat"].cells
    assert (base.dot, lora.dot, engram.dot) == ("", "", "●")
    assert engram.change == "−6.0 (−10.0 to −2.0)", "the difference from lora, not from the base"
    assert engram.verdict == "worse"
    assert "Against lora at matched loss: −6.0 (−10.0 to −2.0), shown (95%)." in engram.details
    assert "Eval losses of the pair: 0.9000, lora 1.0000." in engram.details
    assert lines["loss-answer"].cells[1].text == "0.500", "the reference is shown after its last step"


def test_an_arm_that_never_reached_the_loss_has_no_figures_and_says_why(results: Results) -> None:
    results.comparisons[0] = results.comparisons[0].model_copy(update={"reached": [], "missed": [0], "mc2": {}})
    results.measurements = [row for row in results.measurements if row.arm != "engram"]
    columns = study_columns(results, HERE)
    assert columns[-1].note == "never reached lora's loss: 0.600 at the end"
    cells = [line.cells[-1] for line in scorecard(columns).lines]
    assert {cell.text for cell in cells} == {"–"}
    assert cells[0].details == (columns[-1].note,)
    assert "Never came down to lora's loss: engram." in headline(results)


def test_the_headline_follows_from_the_numbers(results: Results) -> None:
    for row in results.measurements:
        row.calls = calls(0.5, {"base": 1.0, "lora": 0.0, "engram": 0.25}[row.arm])
    one = results.comparisons[0]
    one.shift["plain"] = difference(-1, -1.5, -0.5)
    next(row for row in results.measurements if row.role == "matched").retention["plain"].shift = 0.0125
    said = headline(results)
    assert said[0] == "Asked in the plain prompt, at equal loss, engram moved answers 1/100 as far as lora (shown)."
    assert (
        said[1] == "Asked in the chat prompt, at equal loss, engram moved answers 1.0 times as far as lora (not shown)."
    )
    assert said[2] == "Of 8 requests that no tool fits the base declined 100%, lora 0%, engram 25%."
    assert said[3] == "Of MC2 engram +6.0 points (plain), engram −6.0 points (chat) against lora (shown)."
    one.mc2 = dict.fromkeys(one.mc2, difference(0.0, -0.1, 0.1))
    assert headline(results)[3] == "No difference in MC2 is shown: 100 questions show one of 4 points or more."


def test_several_seeds_are_told_one_by_one(results: Results) -> None:
    results.study.seeds = [0, 1]
    results.measurements += [
        row.model_copy(deep=True, update={"seed": 1, "eval_loss_answer": 2 * row.eval_loss_answer})
        for row in results.measurements[1:]
    ]
    results.comparisons[0].reached = [0, 1]
    cell = next(line for line in scorecard(study_columns(results, HERE)).lines if line.id == "loss-answer").cells[2]
    assert cell.text == "1.350"
    assert cell.details[0] == "Seeds 0: 0.900, 1: 1.800."


def test_a_name_with_a_hyphen_stays_and_who_moved_farther_is_told_against_whom(many: Results) -> None:
    for one in (*many.measurements, *many.comparisons):
        one.arm = {"up": "up-and-away"}.get(one.arm, one.arm)
        if getattr(one, "matched_with", None) == "up":
            one.matched_with = "up-and-away"  # type: ignore[union-attr]
    for one in many.comparisons:
        one.shift = dict.fromkeys(one.shift, difference(0.0, -0.1, 0.1))
    many.comparisons[0].shift["plain"] = difference(1.0, 0.5, 1.5)
    said = headline(many)
    assert (
        said[0]
        == "Asked in the plain prompt, at equal loss, up-and-away moved answers 2.0 times as far as lora (shown)."
    )
    assert said[2].startswith("Of MC2 up-and-away +6.0 points (plain), up-and-away +6.0 points (chat) and 4 more")


def test_a_pair_that_is_not_close_or_was_mixed_says_so(results: Results, tmp_path: Path) -> None:
    ours = next(row for row in results.measurements if row.role == "matched")
    ours.eval_loss_answer = 0.88
    ours.between = Between(before=0, after=20, share=0.375)
    results.comparisons[0].why_apart = {0: "its options change"}
    text = scorecard_markdown(scorecard(study_columns(results, tmp_path)))
    assert "engram: 12% lower loss than lora's; mixed from two stops, 0.375 of the way from the base" in text
    said = describe_finding(results)
    assert "Not matched within 5%: engram (eval loss 0.8800 against 1.0000: its options change)." in said
    ours.eval_loss_answer, ours.between = 0.96, None
    assert "lower loss" not in scorecard_markdown(scorecard(study_columns(results, tmp_path)))
    assert "Not matched" not in describe_finding(results)


def test_what_is_not_estimated_is_written_so_and_not_judged(results: Results, tmp_path: Path) -> None:
    unchanged = paired_difference([[0.3] * 40], [[0.3] * 40])
    results.comparisons[0].mc2 = dict.fromkeys(("plain", "chat"), unchanged)
    for kept in results.measurements[2].retention.values():
        kept.delta_mc1 = kept.delta_mc2 = unchanged
    line = next(one for one in scorecard(study_columns(results, tmp_path)).lines if one.id == "mc2-plain")
    assert (line.cells[-1].change, line.cells[-1].verdict) == ("unchanged, to the bit", "same")
    for text in (describe_finding(results), *headline(results), render_page([Run(tmp_path, results)])):
        assert not re.search(r"\b(inf|nan)\b", text)
    assert "to the bit" in " ".join(headline(results))
