"""Several runs stand on one page when they measured the same, and are refused by name when they did not."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.report.samples import calls
from tinyengram.errors import TinyEngramError
from tinyengram.report.page import render_page
from tinyengram.report.runs import Run, joined_columns, load_run
from tinyengram.study.evaluation import Evaluation
from tinyengram.study.results import Results


def test_arms_of_all_runs_stand_beside_one_base(results: Results, evaluation: Evaluation) -> None:
    again = results.model_copy(deep=True)
    again.study.name = "second"
    runs = [Run(Path("a"), results), Run(Path("b"), again), Run(Path("c"), evaluation)]
    columns, by_arm = joined_columns(runs)
    assert [column.name for column in columns] == [
        "base",
        "lora (quick, 1)",
        "engram (quick, 1)",
        "lora (second, 2)",
        "engram (second, 2)",
        "theirs",
    ]
    assert len({(column.style.index, column.style.symbol) for column in columns[1:] if column.style}) == 5
    assert [column.against for column in columns] == ["", "", "lora", "", "lora", "base"]
    assert by_arm[1]["engram"].name == "engram (second, 2)"
    assert [column.folder.name for column in columns] == ["a", "a", "a", "b", "b", "c"]
    page = render_page(runs)
    assert "theirs: " in page
    assert page.count("<summary>The finding in full") == 3


def test_runs_on_other_data_are_refused_by_name(results: Results, evaluation: Evaluation) -> None:
    other = results.model_copy(deep=True)
    other.data.eval_examples = 17
    with pytest.raises(TinyEngramError, match="the number of held-out texts is 16 in one and 17 in the other"):
        joined_columns([Run(Path("a"), results), Run(Path("b"), other)])
    evaluation.base = evaluation.base.model_copy(deep=True)
    evaluation.base.retention["chat"].mc2 += 0.01
    with pytest.raises(TinyEngramError, match=re.escape("the base's MC2, chat is 0.40000 in one and 0.41000")):
        joined_columns([Run(Path("a"), results), Run(Path("b"), evaluation)])


def test_a_run_is_found_where_each_command_leaves_it(tmp_path: Path, results: Results, evaluation: Evaluation) -> None:
    for place, name, content in (
        ("compare", "results.json", results),
        ("train/run", "results.json", results),
        ("evaluate", "evaluation.json", evaluation),
    ):
        (tmp_path / place).mkdir(parents=True)
        (tmp_path / place / name).write_text(content.model_dump_json())
    assert load_run(tmp_path / "compare").name == "quick"
    assert load_run(tmp_path / "train").folder == tmp_path / "train" / "run"
    assert load_run(tmp_path / "evaluate").name == "theirs"
    with pytest.raises(TinyEngramError, match=r"holds neither results\.json nor evaluation\.json"):
        load_run(tmp_path)
    (tmp_path / "compare" / "results.json").write_text("{")
    with pytest.raises(TinyEngramError, match=r"cannot be read .* Run the same command again"):
        load_run(tmp_path / "compare")


def test_an_evaluations_page_says_what_changed(evaluation: Evaluation) -> None:
    page = render_page([Run(Path("c"), evaluation)])
    assert "They lost much." in page
    assert '<td class="change worse">−5.0 (−8.0 to −2.0)' in page
    assert "somewhere/" not in page, "nobody needs to know where it lay"


def test_a_model_whose_folder_is_called_base_is_not_taken_for_the_base(evaluation: Evaluation) -> None:
    evaluation.model.arm = "base"
    columns, _ = joined_columns([Run(Path("c"), evaluation)])
    assert [column.name for column in columns] == ["base", "base (base, 1)"]
    assert columns[1].rows == [evaluation.model]
    assert "base (base, 1)" in render_page([Run(Path("c"), evaluation)])


def test_a_study_of_one_arm_begins_with_what_it_learnt_and_broke(results: Results) -> None:
    results.study.arms = {"lora": results.study.arms["lora"]}
    results.comparisons = []
    results.measurements = [row for row in results.measurements if row.role in ("base", "last")]
    results.trajectories = results.trajectories[:1]
    for row in results.measurements:
        row.calls = calls(0.5, 1.0)
    page = render_page([Run(Path("a"), results)])
    answer = page[page.index('class="answer"') : page.index("</ul>")]
    assert "Loss on the answers fell from 2.000 to 0.500" in answer
    assert "Shown to be worse" in answer
