"""The page and the finding say what the results say, no more, and escape what they show."""

from __future__ import annotations

import pytest
from markupsafe import escape

from tests.study.test_matching import trajectory
from tinyengram.hardware import Hardware
from tinyengram.report.figures import difference_figure, loss_figure, retention_figure, shift_figure
from tinyengram.report.page import render_page
from tinyengram.report.table import further_tables, table_rows
from tinyengram.sources.provenance import Provenance
from tinyengram.study.finding import describe_finding, stopped_losses
from tinyengram.study.plan import load_study
from tinyengram.study.results import Comparison, DataAccount, Measurement, Results, Retention, RunProvenance, TextDrift
from tinyengram.study.statistics import Difference

LABEL = "TruthfulQA's embedded subset of 481"


def difference(mean: float, low: float, high: float) -> Difference:
    return Difference(mean=mean, low=low, high=high, p_value=None, detectable=0.04, questions=100, seeds=1)


def measurement(arm: str, role: str, step: int, loss: float, delta: Difference | None, **more) -> Measurement:
    return Measurement(
        arm=arm,
        role=role,  # type: ignore[arg-type]
        seed=None if arm == "base" else 0,
        step=step,
        eval_loss_whole=9.0,
        eval_loss_answer=loss,
        retention={
            prompt: Retention(
                mc1=0.25,
                mc2=0.4 + (delta.mean if delta else 0),
                margin=1.0,
                shift=None if delta is None else shift,
                delta_mc1=delta,
                delta_mc2=delta,
                scores_file="scores/x.json",
            )
            for prompt, shift in (("plain", 1.25), ("chat", 4.5))
        },
        **more,
    )


@pytest.fixture
def results() -> Results:
    """A study in which Engram kept more than LoRA at matched loss."""
    study = load_study("quick").model_copy(update={"description": "<script>alert('x')</script>"})
    study.truthfulqa = study.truthfulqa.model_copy(update={"prompts": ("plain", "chat")})
    study.arms = {name: study.arms[name] for name in ("lora", "engram")}
    asset = Provenance(name="asset & co", kind="embedded", revision="asset==1", sha256="f" * 64)
    lost = difference(-0.05, -0.08, -0.02)
    return Results(
        study=study,
        provenance=RunProvenance(
            versions={"torch": "2"},
            hardware=Hardware(processor="A CPU", cores=2, memory_gib=24, accelerators=[], platform="Linux"),
            threads=2,
            commit=None,
            base=asset,
            created="2026-01-01T00:00:00+00:00",
        ),
        data=DataAccount(
            train_examples=195,
            eval_examples=16,
            too_long=7,
            skipped=[],
            dropped={"<b>reason</b>": 3},
            train_tokens=1000,
            data=asset,
            questions=asset,
            question_label=LABEL,
            questions_asked=100,
            questions_dropped={},
        ),
        trajectories=[trajectory("lora", [2, 1, 0.5]), trajectory("engram", [2, 0.9, 0.6])],
        measurements=[
            measurement("base", "base", 0, 2.0, None),
            measurement("lora", "matched reference", 10, 1.0, lost, matched_with="engram"),
            measurement("engram", "matched", 10, 0.9, difference(0.01, -0.01, 0.03)),
            measurement("lora", "last", 20, 0.5, lost),
        ],
        comparisons=[
            Comparison(
                arm="engram",
                reference="lora",
                reached=[0],
                missed=[],
                mc1={"plain": difference(0, -0.1, 0.1), "chat": difference(0, -0.1, 0.1)},
                mc2={"plain": difference(0.06, 0.02, 0.1), "chat": difference(-0.06, -0.1, -0.02)},
                shift={"plain": difference(0, -1, 1), "chat": difference(0, -1, 1)},
            )
        ],
        seconds={"prepare": 10.0, "train lora": 65.0},
        finding="",
    )


def test_a_shown_difference_is_told_with_its_interval(results: Results) -> None:
    finding = describe_finding(results)
    assert finding.startswith(
        "At matched eval loss (engram 0.9000, lora 1.0000), engram kept less of MC2 than lora in the chat prompt: "
        "−6.0 points (95% interval −10.0 to −2.0); engram kept more of MC2 than lora in the plain prompt: "
        "+6.0 points (95% interval +2.0 to +10.0)."
    )
    assert "4.500 and 4.500 in the chat prompt, 1.250 and 1.250 in the plain prompt (nats; engram and lora)" in finding
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
    render_page(results)


def test_the_table_has_the_experiments_rows(results: Results) -> None:
    rows = table_rows(results)
    assert [row.cells[0] for row in rows[::2]] == ["smollm2-135m-instruct", "lora", "engram", "lora, trained on"]
    assert [row.kind for row in rows[::2]] == ["base", "matched-reference", "matched", "last"]
    assert [row.cells[4] for row in rows[:4]] == ["plain", "chat"] * 2
    assert rows[4].cells[6:9] == ("0.4100", "+1.0 (−1.0 to +3.0)", "1.250")
    assert rows[5].cells[:4] == ("", "", "", "")


def test_the_page_escapes_what_it_shows(results: Results) -> None:
    page = render_page(results)
    assert "<script>alert" not in page
    assert "&lt;script&gt;alert" in page
    assert "<b>reason</b>" not in page
    assert "asset &amp; co" in page
    assert escape(LABEL) in page


def test_figures_show_every_point_and_mark_the_pair(results: Results) -> None:
    lines = {trace.name: trace for trace in loss_figure(results).data}
    assert list(lines["lora"].y) == [2, 1, 0.5]
    assert sorted(lines["matched pair"].y) == [0.9, 1.0]
    points = {trace.name: trace for trace in retention_figure(results, "chat").data}
    assert list(points["lora"].x) == [1.0, 0.5]
    assert points["lora"].error_y.array[0] == pytest.approx(0.03)
    assert sorted(points["matched pair"].x) == [0.9, 1.0]


@pytest.fixture
def many(results: Results) -> Results:
    """Four arms against LoRA, each of which kept another number of points more; the last never reached its loss."""
    kept = {"up": 0.06, "flat": 0.005, "down": -0.06, "steep": -0.2}
    results.study.arms = {
        "lora": results.study.arms["lora"],
        **dict.fromkeys([*kept, "never"], results.study.arms["engram"]),
    }
    results.trajectories = [trajectory(arm, [2, 1, 0.5]) for arm in results.study.arms]
    lost = difference(-0.05, -0.08, -0.02)
    results.measurements = [results.measurements[0]]
    results.comparisons = []
    for index, (arm, mean) in enumerate(kept.items()):
        results.measurements += [
            measurement("lora", "matched reference", 10, 1.0, lost, matched_with=arm),
            measurement(arm, "matched", 10, 0.9, difference(mean, mean - 0.04, mean + 0.04)),
            measurement(arm, "level", 5, 1.5, difference(mean, mean - 0.04, mean + 0.04)),
        ]
        results.measurements[-2].retention["plain"].shift = 2.5 / 10**index
        both = dict.fromkeys(("plain", "chat"), difference(mean, mean - 0.04, mean + 0.04))
        results.comparisons.append(
            Comparison(arm=arm, reference="lora", reached=[0], missed=[], mc1=both, mc2=both, shift=both, area=both)
        )
    results.comparisons.append(
        Comparison(arm="never", reference="lora", reached=[], missed=[0], mc1={}, mc2={}, shift={}),
    )
    results.measurements.append(measurement("lora", "last", 20, 0.5, lost))
    return results


def test_many_arms_are_told_together_by_way_of_asking(many: Results) -> None:
    finding = describe_finding(many)
    assert finding.startswith(
        "At matched eval loss in the plain prompt, against lora, kept more of MC2: up (+6.0 points (95% interval +2.0 "
        "to +10.0)); kept less of MC2: down (−6.0 points"
    )
    assert "steep (−20.0 points" in finding
    assert "no difference is shown for flat." in finding
    assert "choices moved less far with down (0.02 times), steep (0.002 times); farther with up (2 times)." in finding
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
    assert "What each arm kept more than lora at equal loss" in render_page(many)


def test_several_seeds_are_one_row(many: Results) -> None:
    many.study.seeds = [0, 1]
    other = [row.model_copy(update={"seed": 1, "step": 20, "eval_loss_answer": 2.0}) for row in many.measurements[1:]]
    many.measurements += other
    row = next(row for row in table_rows(many) if row.cells[0] == "up")
    assert row.cells[1:4] == ("10 to 20", "1.4500", "9.0000")
    assert row.cells[7] == "+6.0 (+6.0 to +6.0)"


def test_a_long_table_is_folded_behind_the_comparison(many: Results) -> None:
    assert "<details>" not in render_page(many)
    for index in range(12):
        name = f"arm {index}"
        many.study.arms[name] = many.study.arms["up"]
        many.trajectories.append(trajectory(name, [2, 1, 0.5]))
        many.measurements.append(measurement(name, "matched", 10, 0.9, difference(0, -0.1, 0.1)))
    page = render_page(many)
    assert page.index("Each arm against lora") < page.index('class="finding"') < page.index("<details>")
    assert page.count("Each arm against lora") == 1


def test_figures_of_many_arms(many: Results) -> None:
    plain, chat = difference_figure(many).data
    assert list(plain.x) == pytest.approx([6, 0.5, -6, -20])
    assert list(plain.error_x.array) == pytest.approx([4] * 4)
    assert [round(y) for y in plain.y] == [0, 1, 2, 3]
    assert all(first < second for first, second in zip(plain.y, chat.y, strict=True))
    shifts = shift_figure(many)
    assert sorted(shifts.data[0].x) == pytest.approx([0.0025, 0.025, 0.25, 1.25, 2.5])
    assert list(shifts.layout.yaxis.ticktext) == list(many.study.arms)
    lines = {trace.name: trace for trace in retention_figure(many, "plain").data}
    assert list(lines["up"].x) == [1.5, 0.9]
    assert list(lines["not beaten"].x) == sorted(lines["not beaten"].x, reverse=True)


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
    assert "none diverges so little" in render_page(many)
