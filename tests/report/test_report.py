"""The page and the finding say what the results say, no more, and escape what they show."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from markupsafe import escape

from tests.report.samples import LABEL, difference, measurement
from tinyengram.report.columns import Column, study_columns
from tinyengram.report.figures import Figure, loss_figure, retention_figure
from tinyengram.report.forests import difference_figure, shift_figure
from tinyengram.report.page import render_page
from tinyengram.report.runs import Run
from tinyengram.report.table import further_tables, table_rows
from tinyengram.study.finding import describe_finding, stopped_losses
from tinyengram.study.results import Comparison, Results, TextDrift


def page_of(results: Results) -> str:
    return render_page([Run(Path("run"), results)])


def columns_of(results: Results) -> dict[str, Column]:
    return {column.name: column for column in study_columns(results, Path("run"))}


def said(figure: Figure, arm: str) -> list[str]:
    """What the marks of an arm say when they are pointed at, in the order in which they are drawn."""
    groups = re.findall(r'<g data-arm="([^"]*)">(.*?)(?=<g data-arm=|$)', figure.wide, flags=re.DOTALL)
    return [text for name, marks in groups if name == arm for text in re.findall("<title>(.*?)</title>", marks)]


def test_a_shown_difference_is_told_with_its_interval(results: Results) -> None:
    finding = describe_finding(results)
    assert finding.startswith(
        "At matched eval loss (engram 0.9000, lora 1.0000), engram kept less of MC2 than lora in the chat prompt: "
        "−6.0 points (95% interval −10.0 to −2.0); engram kept more of MC2 than lora in the plain prompt: "
        "+6.0 points (95% interval +2.0 to +10.0)."
    )
    assert (
        "4.500 and 4.500 in the chat prompt, 1.250 and 1.250 in the plain prompt (nats, raw; engram and lora)"
        in finding
    )
    assert "only if it is at least 4.0 points" in finding
    assert LABEL in finding
    assert "one run per arm" in finding


def test_a_pair_whose_losses_are_not_equal_is_said_to_be_none(results: Results) -> None:
    said = "Not matched within 5%: engram (eval loss 0.9000 against 1.0000). What these lost more than lora"
    assert said in describe_finding(results)
    matched = next(row for row in results.measurements if row.role == "matched")
    matched.eval_loss_answer = matched.eval_loss_whole = 0.96
    assert "Not matched" not in describe_finding(results)


def test_an_interval_with_zero_shows_no_difference(results: Results) -> None:
    results.comparisons[0].mc2 = {"plain": difference(0.06, -0.02, 0.1)}
    finding = describe_finding(results)
    assert "no difference in MC2 is shown in the plain prompt: +6.0 points (95% interval −2.0 to +10.0)" in finding
    assert "kept more" not in finding


def test_an_arm_that_never_reached_the_level_is_not_compared(results: Results) -> None:
    results.comparisons[0] = Comparison(
        arm="engram", reference="lora", reached=[], missed=[0], mc1={}, mc2={}, shift={}
    )
    finding = describe_finding(results)
    assert "engram never reached the eval loss of any checkpoint of lora, so the two are not compared" in finding
    assert "points" not in finding
    page_of(results)


def test_the_table_has_the_experiments_rows(results: Results) -> None:
    rows = table_rows(results)
    assert [row.cells[0] for row in rows[::2]] == ["smollm2-135m-instruct", "lora", "engram", "lora, trained on"]
    assert [row.kind for row in rows[::2]] == ["base", "matched-reference", "matched", "last"]
    assert [row.cells[4] for row in rows[:4]] == ["plain", "chat"] * 2
    assert rows[4].cells[6:9] == ("0.4100", "+1.0 (−1.0 to +3.0)", "1.250")
    assert rows[5].cells[:4] == ("", "", "", "")


def test_the_page_escapes_what_it_shows(results: Results) -> None:
    page = page_of(results)
    assert "<script>alert" not in page
    assert "&lt;script&gt;alert" in page
    assert "<b>reason</b>" not in page
    assert "asset &amp; co" in page
    assert escape(LABEL) in page


def test_figures_show_every_point_and_mark_the_pair(results: Results) -> None:
    losses = loss_figure(results, columns_of(results))
    stops = {0: "2.0000", 10: "1.0000", 20: "0.5000"}
    assert said(losses, "lora") == [f"lora, step {step}: {loss} nats" for step, loss in stops.items()]
    assert losses.wide.count('class="ring') == losses.narrow.count('class="ring') == 2
    kept = retention_figure(results, columns_of(results), "chat", 1)
    assert said(kept, "lora") == ["lora, step 10: loss 1.0000, MC2 35.0%", "lora, step 20: loss 0.5000, MC2 35.0%"]
    assert kept.wide.count('class="pair"') == 1
    assert kept.wide.count('class="bar-line') == 3, "with one seed each checkpoint has an interval"
    results.study.seeds = [0, 1]
    assert 'class="bar-line' not in retention_figure(results, columns_of(results), "chat", 1).wide


def test_many_arms_are_told_together_by_way_of_asking(many: Results) -> None:
    finding = describe_finding(many)
    assert finding.startswith(
        "At matched eval loss in the plain prompt, against lora, kept more of MC2: up (+6.0 points (95% interval +2.0 "
        "to +10.0)); kept less of MC2: down (−6.0 points"
    )
    assert "steep (−20.0 points" in finding
    assert "no difference is shown for flat." in finding
    assert (
        "choices, raw, moved less far with down (0.02 times), steep (0.002 times); farther with up (2 times)."
        in finding
    )
    assert "never never reached the eval loss of any checkpoint of lora" in finding


def test_the_arms_are_compared_in_a_table_of_their_own(many: Results) -> None:
    table = next(one for one in further_tables(many) if one.title == "Each arm against lora at matched loss")
    assert len(table.rows) == 4 * 2
    assert [row.cells[0] for row in table.rows[::2]] == ["up", "flat", "down", "steep"]
    assert table.rows[0].cells[1:5] == ("0.9000, 1.0000", "plain", "+6.0", "+6.0 (+2.0 to +10.0)")
    assert [row.kind for row in table.rows[::2]] == ["matched", "", "", ""]
    # A checkpoint of the reference that is matched to several arms is one row, and other levels are none.
    assert [row.cells[0] for row in table_rows(many)[::2]] == [
        "smollm2-135m-instruct",
        "lora",
        "up",
        "flat",
        "down",
        "steep",
        "lora, trained on",
    ]
    assert "What each arm kept more than lora at equal loss" in page_of(many)


def test_several_seeds_are_one_row(many: Results) -> None:
    many.study.seeds = [0, 1]
    other = [row.model_copy(update={"seed": 1, "step": 20, "eval_loss_answer": 2.0}) for row in many.measurements[1:]]
    many.measurements += other
    row = next(row for row in table_rows(many) if row.cells[0] == "up")
    assert row.cells[1:4] == ("10 to 20", "1.4500", "9.0000")
    assert row.cells[7] == "+6.0 (+6.0 to +6.0)"


def test_the_answer_comes_first_and_the_tables_are_folded(many: Results) -> None:
    page = page_of(many)
    parts = ('class="answer"', 'class="scorecard"', 'id="pictures"', "Each arm against lora")
    places = [page.index(part) for part in parts]
    assert places == sorted(places)
    assert page.count("<summary>Each arm against lora") == 1
    assert page.index("<details>") > page.index('id="pictures"')


def test_figures_of_many_arms(many: Results) -> None:
    columns = columns_of(many)
    differences = difference_figure(many, columns)
    assert said(differences, "up") == [
        f"up, {prompt} prompt: +6.0 points (95% interval +2.0 to +10.0)" for prompt in ("plain", "chat")
    ]
    shifts = shift_figure(many, columns)
    assert [said(shifts, arm)[0].split(": ")[1] for arm in ("lora", "up", "flat", "down", "steep")] == [
        "1.2500 nats",
        "2.5000 nats",
        "0.2500 nats",
        "0.0250 nats",
        "0.0025 nats",
    ]
    places = {arm: x_of(shifts, arm) for arm in ("up", "flat", "down", "steep")}
    gaps = [places["up"] - places["flat"], places["flat"] - places["down"], places["down"] - places["steep"]]
    assert gaps == pytest.approx([gaps[0]] * 3, abs=0.5), "equal ratios are equally far apart"
    assert gaps[0] > 10
    kept = retention_figure(many, columns, "plain", 0)
    assert [text.split(",")[1] for text in said(kept, "up")] == [" step 10: loss 0.9000", " step 5: loss 1.5000"]
    assert 'class="edge"' in kept.wide
    assert said(loss_figure(many, columns), "never")[0] == "never, step 0: 2.0000 nats"


def x_of(figure: Figure, arm: str) -> float:
    """Where the first mark of an arm is drawn."""
    at = figure.wide.index(f'<g data-arm="{arm}"')
    found = re.search(r'<(?:circle cx="|rect x="|path d="M)([\d.]+)', figure.wide[at:])
    assert found is not None
    half = {"c": 0.0, "r": 4.5, "p": 0.0}[found.group(0)[1]]
    return float(found.group(1)) + half


def test_where_the_reference_would_stop_to_diverge_as_little(many: Results) -> None:
    def drift(kl: float) -> TextDrift:
        return TextDrift(kl=kl, perplexity=20.0, file="scores/x.json")

    up = many.comparisons[0]
    assert stopped_losses(many, up) == []
    many.measurements.append(measurement("lora", "level", 5, 1.4, difference(0, -0.1, 0.1), matched_with="up"))
    for row in many.measurements:
        row.drift = drift({5: 0.1, 10: 0.2, 20: 0.4}.get(row.step, 0.0))
    matched = next(row for row in many.measurements if (row.arm, row.role) == ("up", "matched"))
    found = {}
    for kl in (0.05, 0.1, 0.3, 0.5):
        matched.drift = drift(kl)
        found[kl] = stopped_losses(many, up)
    assert found == {0.05: [None], 0.1: [1.4], 0.3: [1.0], 0.5: [0.5]}
    matched.drift = drift(0.05)
    assert "none diverges so little" in page_of(many)
