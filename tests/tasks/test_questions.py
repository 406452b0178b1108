"""TruthfulQA from every source gives the same questions, and a part of it says that it is one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tinyengram.sources import SourceError
from tinyengram.tasks.errors import TaskError
from tinyengram.tasks.questions import load_truthfulqa

CSV = """Type,Category,Question,Best Answer,Correct Answers,Incorrect Answers,Source
A,B,Do cats bark?,"No, cats meow","No, cats meow; Cats do not bark",Yes; Only at night; ,http://x
A,B,Is ice hot?,Ice is cold,It is frozen water,Yes;Sometimes,http://y
"""


@pytest.fixture
def csv_file(tmp_path: Path) -> str:
    (tmp_path / "TruthfulQA.csv").write_text(CSV)
    return str(tmp_path / "TruthfulQA.csv")


def test_the_official_csv(csv_file: str) -> None:
    data = load_truthfulqa(csv_file)
    first, second = data.questions
    assert first.mc1_choices == ("No, cats meow", "Yes", "Only at night")
    assert first.mc2_choices == ("No, cats meow", "Cats do not bark", "Yes", "Only at night")
    assert first.mc2_labels == (True, True, False, False)
    assert second.mc2_choices == ("Ice is cold", "It is frozen water", "Yes", "Sometimes")
    assert data.is_subset
    assert "2 questions" in data.label


def test_rows_with_targets(tmp_path: Path) -> None:
    row = {
        "question": "Do cats bark?",
        "mc1_targets": {"choices": ["Yes", "No, cats meow"], "labels": [0, 1]},
        "mc2_targets": {"choices": ["No, cats meow", "Yes", "They do not"], "labels": [1, 0, 1]},
    }
    file = tmp_path / "rows.jsonl"
    file.write_text(json.dumps(row))
    (question,) = load_truthfulqa(str(file)).questions
    assert question.mc1_choices == ("No, cats meow", "Yes")
    assert question.mc2_choices == ("No, cats meow", "They do not", "Yes")
    assert question.mc2_labels == (True, True, False)


def test_a_limit_is_spread_evenly_and_stated(tmp_path: Path) -> None:
    header, row = CSV.splitlines()[0], "A,B,Question {}?,yes,yes,no,http://x"
    file = tmp_path / "many.csv"
    file.write_text("\n".join([header, *(row.format(number) for number in range(100))]))
    data = load_truthfulqa(str(file), limit=25)
    assert [question.question for question in data.questions[:3]] == ["Question 0?", "Question 4?", "Question 8?"]
    assert "25" in data.label


def test_what_cannot_be_used_is_named(tmp_path: Path, csv_file: str) -> None:
    with pytest.raises(SourceError, match="Did you mean 'truthfulqa-subset'"):
        load_truthfulqa("truthfulqa-subsett")
    with pytest.raises(SourceError, match="does not exist"):
        load_truthfulqa(str(tmp_path / "none.csv"))
    with pytest.raises(TaskError, match="limit=0"):
        load_truthfulqa(csv_file, limit=0)
    bad = tmp_path / "bad.csv"
    bad.write_text("Question,Best Answer\nWhat?,this\n")
    with pytest.raises(TaskError, match="row 1 lacks 'Correct Answers'"):
        load_truthfulqa(str(bad))
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"question": "x"}')
    with pytest.raises(TaskError, match=r"rows.jsonl:1.*mc1_targets"):
        load_truthfulqa(str(rows))


@pytest.mark.slow
def test_the_embedded_subset_is_named_as_one_and_consistent() -> None:
    data = load_truthfulqa()
    assert len(data.questions) == 481
    assert sum(data.dropped.values()) == 2
    assert data.is_subset
    assert "subset" in data.label
    for question in data.questions:
        assert len(question.mc1_choices) == 4
        right = {text for text, label in zip(question.mc2_choices, question.mc2_labels, strict=True) if label}
        assert question.mc1_choices[0] in right
        assert not right & set(question.mc1_choices[1:])
