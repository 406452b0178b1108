"""Answers that changed: probabilities as MC2 takes them, how far they moved, and a page that shows any text as text."""

from __future__ import annotations

import math
import random
from pathlib import Path

import pytest

from tests.report.folders import HOSTILE, KEY, Page, answered, columns, question, rendered, write
from tinyengram.errors import TinyEngramError
from tinyengram.report.changed import changed_answers
from tinyengram.report.respondents import Respondent
from tinyengram.report.texts import shown
from tinyengram.scoring import truthfulqa
from tinyengram.tasks.questions import TruthfulQuestion

PLAIN = ("truthfulqa", "plain")


def logs(*shares: float) -> list[float]:
    """Log-likelihoods whose softmax is these shares."""
    return [math.log(share) - 7 for share in shares]


@pytest.fixture
def two(tmp_path: Path) -> list[Respondent]:
    """A base and two arms, asked three questions; the first choice is right."""
    asked = [question(at, ["yes", "no", "maybe"], [True, False, False]) for at in range(3)]
    files = answered(
        tmp_path,
        "truthfulqa",
        asked,
        {
            "base": [logs(0.6, 0.3, 0.1), logs(0.2, 0.5, 0.3), logs(0.2, 0.5, 0.3)],
            "lora": [logs(0.1, 0.8, 0.1), logs(0.25, 0.45, 0.3), logs(0.2, 0.5, 0.3)],
            "engram": [logs(0.6, 0.3, 0.1), logs(0.5, 0.2, 0.3), logs(0.2, 0.3, 0.5)],
        },
    )
    return columns(tmp_path, {PLAIN: files})


def test_what_moved_most_comes_first_with_what_became_of_the_picked_answer(two: list[Respondent]) -> None:
    found = changed_answers(two)
    assert [card.at for card in found.cards] == [0, 1, 2]
    first, second, third = found.cards
    assert first.moved == pytest.approx((0, 0.5, 0))
    assert [choice.shares for choice in first.choices] == [
        pytest.approx(shares) for shares in ((0.6, 0.1, 0.6), (0.3, 0.8, 0.3), (0.1, 0.1, 0.1))
    ]
    assert (first.picked, first.turns) == ((0, 1, 0), ("same", "right to wrong", "same"))
    assert (second.moved[2], second.turns) == (pytest.approx(0.3), ("same", "same", "wrong to right"))
    assert (third.most, third.turns, third.changes) == (pytest.approx(0.2), ("same", "same", "other"), [("other", 1)])
    (group,) = found.groups
    assert (group.asked, group.shown, group.example.text) == (3, 3, "Q: Question 0?\nA:")
    assert group.moved == pytest.approx((0, 0.55 / 3, 0.5 / 3))
    assert [group.turns[1]["right to wrong"], group.turns[2]["wrong to right"]] == [1, 1]


def test_shares_of_right_choices_are_mc2(tmp_path: Path) -> None:
    draw = random.Random(0)
    right = (True, True, False, False)
    values = [-30 * draw.random() for _ in range(7)]
    one = TruthfulQuestion("a", "?", ("a", "x", "y"), ("a", "b", "x", "y"), right)
    files = answered(tmp_path, "truthfulqa", [question(0, "abxy", right)], {"base": [values[3:]], "lora": [values[3:]]})
    (card,) = changed_answers(columns(tmp_path, {PLAIN: files})).cards
    mc2 = sum(choice.shares[1] for choice in card.choices if choice.right)
    assert mc2 == pytest.approx(truthfulqa._score(one, values).mc2)


def test_the_page_says_it_in_words_without_a_script(two: list[Respondent]) -> None:
    html = rendered("answers", changed_answers(two))
    page = Page(html)
    assert page.open == []
    assert "script" not in page.tags()
    assert "hidden" in next(attributes for tag, attributes in page.met if tag == "form")
    text = " ".join(page.text.split())
    assert "TruthfulQA, plain · moved up to 50% · right → wrong for 1 of 2 arms" in text
    assert "1 lost, 0 won" in text
    assert "3 of 3 shown." in text
    assert "Picked✓ right✗ wrong✓ right" in text
    assert '<td class="arm-0" style="--p:80"><b>80%</b></td>' in html
    assert '<td class="arm-base" style="--p:60"><b>60%</b></td>' in html


def test_of_each_set_and_prompt_the_same_number_is_shown_and_the_rest_is_counted(tmp_path: Path) -> None:
    draw = random.Random(0)
    keys, files, moved = [("truthfulqa", "plain"), ("truthfulqa", "chat"), ("arc-easy", "plain")], {}, {}
    for at, key in enumerate(keys):
        asked = [question(number, ["yes", "no"], [True, False]) for number in range(50)]
        rows = {name: [[draw.gauss(0, at + 1), 0.0] for _ in asked] for name in ("base", "lora")}
        files[key] = answered(tmp_path, f"{key[0]}-{at}", asked, rows)
        base, lora = ([1 / (1 + math.exp(-first)) for first, _ in rows[name]] for name in ("base", "lora"))
        moved[key] = sorted((abs(one - other) for one, other in zip(base, lora, strict=True)), reverse=True)
    found = changed_answers(columns(tmp_path, files))
    assert [group.shown for group in found.groups] == [20, 20, 20]
    for key, expected in moved.items():
        of_group = [card.most for card in found.cards if (card.set_name, card.prompt) == key]
        assert of_group == pytest.approx(expected[:20])
    assert [card.most for card in found.cards] == sorted((card.most for card in found.cards), reverse=True)
    assert "60 of 150 shown: of each set and prompt the 20 that moved most. All of them lie in scores/" in rendered(
        "answers", found
    )


def test_eleven_arms_stay_within_their_part_of_the_page(tmp_path: Path) -> None:
    draw = random.Random(0)
    names = ["base", *(f"engram-exact-held-{at}" for at in range(11))]
    files = {}
    for kind, choices in (("truthfulqa", 10), ("arc-easy", 4)):
        for prompt in ("plain", "chat", "chat with tools"):
            asked = [question(at, [f"{at}<>&{c} " * 8 for c in range(choices)], [True] + [False] * (choices - 1),
                              "Is it true that <this> & that?" * 5) for at in range(40)]  # fmt: skip
            rows = {name: [[draw.gauss(0, 2) for _ in range(choices)] for _ in asked] for name in names}
            files[kind, prompt] = answered(tmp_path, f"{kind}-{prompt.replace(' ', '-')}", asked, rows)
    found = changed_answers(columns(tmp_path, files))
    size = len(rendered("answers", found).encode())
    assert 200_000 < size < 400_000
    assert {group.shown for group in found.groups} > {1} or min(group.shown for group in found.groups) > 1


@pytest.mark.parametrize("text", HOSTILE)
def test_whatever_a_question_or_choice_holds_is_shown_as_text(tmp_path: Path, text: str) -> None:
    name = text.replace("\0", "")  # Neither an arm nor a file can be named with it.
    asked = [question(0, [text, "no"], [True, False], text)]
    files = answered(tmp_path, "own", asked, {"base": [[0, -1]], name: [[-1, 0]]})
    html = rendered("answers", changed_answers(columns(tmp_path, {(name, "plain"): files})))
    page = Page(html)
    assert page.open == []
    assert "script" not in page.tags()
    assert not any("onclick" in attributes for _, attributes in page.met)
    assert page.text.count(shown(text, 10_000).text) >= 3
    assert "\0" not in html


class TestNotShown:
    def test_a_run_of_an_earlier_version_says_why(self, two: list[Respondent], tmp_path: Path) -> None:
        (tmp_path / "asked" / f"truthfulqa-{KEY}.json").unlink()
        found = changed_answers(two)
        assert found.cards == ()
        assert f"does not hold asked/truthfulqa-{KEY}.json, as runs of earlier" in str(found.reason)
        assert "The same command, run again, adds what is missing." in rendered("answers", found)

    def test_without_scores(self, two: list[Respondent], tmp_path: Path) -> None:
        for at in (1, 2):
            (tmp_path / "scores" / f"truthfulqa-{KEY}-{at}.json").unlink()
        assert f"does not hold scores/truthfulqa-{KEY}-1.json and 1 more" in str(changed_answers(two).reason)

    def test_where_nothing_is_compared(self, two: list[Respondent]) -> None:
        assert "no arm was asked what the base was asked" in str(changed_answers(two[:1]).reason)

    def test_what_some_were_not_asked_is_passed_over(self, two: list[Respondent], tmp_path: Path) -> None:
        asked = [question(0, ["yes", "no"], [True, False])]
        files = answered(tmp_path, "arc-easy", asked, {"base": [[0, 1]], "lora": [[0, 1]]})
        base, lora = (
            Respondent(one.name, "", tmp_path, {**one.choices, ("arc-easy", "plain"): files[one.name]}, None)
            for one in two[:2]
        )
        assert [group.set_name for group in changed_answers([base, lora]).groups] == ["truthfulqa", "arc-easy"]
        assert [group.set_name for group in changed_answers([base, lora, two[2]]).groups] == ["truthfulqa"]
        other = Respondent("other", "", tmp_path, {("arc-easy", "plain"): "scores/arc-easy-ff-1.json"}, None)
        assert changed_answers([base, other]).reason

    @pytest.mark.parametrize("folder", ["asked", "scores"])
    def test_a_damaged_file_is_refused_by_name(self, two: list[Respondent], tmp_path: Path, folder: str) -> None:
        file = next(iter(sorted((tmp_path / folder).iterdir())))
        file.write_text(file.read_text()[:-20])
        with pytest.raises(TinyEngramError, match=rf"{file.name} cannot be read .*Delete it and run the same command"):
            changed_answers(two)

    @pytest.mark.parametrize("rows", [[], [{"yes": 0.0, "no": 0.0}] * 3, [[0.0] * 4] * 3])
    def test_scores_of_other_questions_are_refused(self, two: list[Respondent], tmp_path: Path, rows: list) -> None:
        write(tmp_path, two[1].choices[PLAIN], {"rows": [{"log_likelihoods": row} for row in rows]})
        with pytest.raises(TinyEngramError, match=rf"truthfulqa-{KEY}-1.json does not answer what .*Delete both"):
            changed_answers(two)
