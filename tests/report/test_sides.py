"""Calls side by side: what was asked, what each model wrote and what became of it, whatever any of them holds."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.report.folders import HOSTILE, KEY, Page, called, columns, rendered, request
from tinyengram.errors import TinyEngramError
from tinyengram.report.respondents import Respondent, respondent
from tinyengram.report.sides import calls_by_side
from tinyengram.report.texts import shown
from tinyengram.scoring.asked import AskedCall, AskedCalls, AskedMessage
from tinyengram.study.results import Accuracy, CallAccuracy, Measurement, Retention

ROME = AskedCall(name="weather", arguments={"city": "Rome"})
RIGHT = '<tool_call>{"name": "weather", "arguments": {"city": "Rome"}}</tool_call>'
WRONG = RIGHT.replace("Rome", "Paris")
NO = "None of the functions can do that."


@pytest.fixture
def asked() -> AskedCalls:
    allowed = [{"weather": {"city": ["Rome", "rome"]}}]
    return AskedCalls(
        wanted=[request(1, "Weather in Rome?", [ROME], allowed=allowed), request(2, "And in Rome now?", [ROME])],
        unwanted=[request(3, "Sing me a song.", turn=None)],
    )


@pytest.fixture
def three(tmp_path: Path, asked: AskedCalls) -> list[Respondent]:
    """A base that never calls, an arm that is right, and one that is wrong once and calls where it should decline."""
    files = called(
        tmp_path,
        asked,
        {
            "base": [(NO, "declines in prose")] * 3,
            "lora": [(RIGHT, "right call"), (RIGHT, "right call"), (NO, "declines in prose")],
            "engram": [(RIGHT, "right call"), (WRONG, "wrong call"), (WRONG, "wrong call")],
        },
    )
    return columns(tmp_path, {}, files)


def test_equal_answers_stand_once_and_outcomes_are_judged_by_what_should_be_done(three: list[Respondent]) -> None:
    found = calls_by_side(three)
    assert found is not None
    first, _, third = found.cards
    assert [(one.columns, one.text.text, one.outcome, one.good) for one in first.answers] == [
        ((0,), NO, "declines in prose", False),
        ((1, 2), RIGHT, "right call", True),
    ]
    assert [card.good for card in found.cards] == [(False, True, True), (False, True, False), (True, True, False)]
    assert [(card.differs, card.wrong, card.should_decline) for card in found.cards] == [
        (False, False, False),
        (True, True, False),
        (True, True, True),
    ]
    assert (first.expected.text, first.allowed.text) == (
        'weather {"city": "Rome"}',
        '{"weather": {"city": ["Rome", "rome"]}}',
    )
    assert first.tool_names == ("weather",)
    assert '"description": "Of a city."' in first.tools.text
    assert third.expected.text == ""


def test_beside_one_arm_the_base_counts(three: list[Respondent]) -> None:
    found = calls_by_side(three[:2])
    assert found is not None
    assert [card.differs for card in found.cards] == [True, True, False]


def test_the_page_says_it_in_words_without_a_script(three: list[Respondent]) -> None:
    html = rendered("calls", calls_by_side(three))
    page = Page(html)
    assert page.open == []
    assert "script" not in page.tags()
    text = " ".join(page.text.split())
    assert "Sing me a song. should decline ✓ base ✓ lora ✗ engram" in text
    assert "lora engram ✓ right call" in text
    assert "1 function offered: weather" in text
    assert "To decline: none of the offered functions fits." in text
    assert "Of each arm: lora (seed 0, step 8), engram (seed 0, step 8)." in text
    assert "3 of 3 requests shown." in text
    assert [attributes["data-is"] for tag, attributes in page.met if "data-is" in attributes and tag == "details"] == [
        "",
        "differs wrong ",
        "differs wrong declines",
    ]


def test_what_else_is_known_of_an_answer_is_said(tmp_path: Path, asked: AskedCalls) -> None:
    files = called(tmp_path, asked, {"base": [("", "empty"), ("\n ", "empty"), (RIGHT, "call in another format")]})
    file = tmp_path / files["base"]
    file.write_text(file.read_text().replace('"content_right": false', '"content_right": true'))
    found = calls_by_side(columns(tmp_path, {}, files))
    assert found is not None
    assert found.cards[2].outcomes == ("call in another format, right but for it",)
    text = Page(rendered("calls", found)).text
    assert "nothing" in text
    assert "2 characters of white space" in text


def test_messages_before_the_answer_are_told_with_their_calls_and_results(tmp_path: Path, asked: AskedCalls) -> None:
    asked.wanted[0].messages = [
        *(AskedMessage(role="user", text=f"earlier {at}") for at in range(5)),
        AskedMessage(role="system", text="Be short."),
        AskedMessage(role="user", text="Weather\nin  Rome?"),
        AskedMessage(role="assistant", text="One moment.", calls=[ROME]),
        AskedMessage(role="tool", text="sunny", name="weather"),
    ]
    asked.wanted[0].tools = []
    found = calls_by_side(columns(tmp_path, {}, called(tmp_path, asked, {"base": [(NO, "declines in prose")] * 3})))
    assert found is not None
    card = found.cards[0]
    assert (card.earlier, card.title.text) == (1, "Weather in Rome?")
    assert [one.who for one in card.messages[-4:]] == ["system", "user", "assistant", "result of weather"]
    assert card.messages[-2].text.text == 'One moment.\nweather {"city": "Rome"}'
    text = " ".join(Page(rendered("calls", found)).text.split())
    assert "1 earlier message left out" in text
    assert "system: 9 charactersBe short." in text
    assert "No function is offered but what the messages say." in text


def test_long_texts_are_cut_until_everything_fits_and_the_rest_is_counted(tmp_path: Path) -> None:
    tools = [{"name": f"tool_{at}", "description": "<&> " * 500} for at in range(4)]
    asked = AskedCalls(
        wanted=[request(at, f"<{at}> " * 900, [ROME], tools=tools) for at in range(40)],
        unwanted=[request(at, f"<{at}> " * 900, tools=tools) for at in range(20)],
    )
    names = ["base", *(f"engram-exact-held-{at}" for at in range(11))]
    wrote = {name: [(f"{name} {at} " * 100, "degenerate") for at in range(60)] for name in names}
    found = calls_by_side(columns(tmp_path, {}, called(tmp_path, asked, wrote)))
    assert found is not None
    html = rendered("calls", found)
    assert 250_000 < len(html.encode()) < 400_000
    assert f"{len(found.cards)} of 60 requests shown; all of them lie in scores/ and asked/." in html
    assert {card.should_decline for card in found.cards} == {False, True}
    assert "more characters)" in html


def test_those_that_differ_are_shown_before_others(tmp_path: Path) -> None:
    asked = AskedCalls(wanted=[request(at, f"Request {at}", [ROME]) for at in range(200)], unwanted=[])
    outcomes = ["right call" if at < 150 else "wrong call" for at in range(200)]
    wrote = {
        "base": [(RIGHT, "right call")] * 200,
        "lora": [(f"{outcome} {at}", outcome) for at, outcome in enumerate(outcomes)],
    }
    found = calls_by_side(columns(tmp_path, {}, called(tmp_path, asked, wrote)))
    assert found is not None
    assert [card.at for card in found.cards] == [*range(30), *range(150, 200)]


@pytest.mark.parametrize("text", HOSTILE)
def test_whatever_is_asked_offered_or_written_is_shown_as_text(tmp_path: Path, text: str) -> None:
    call = AskedCall(name=text, arguments={text: text})
    asked = AskedCalls(
        wanted=[
            request(1, text, [call], tools=[{"name": text, "description": text}], allowed=[{text: {text: [text]}}]),
            request(2, text, [call], messages=[AskedMessage(role=role, text=text) for role in ("system", "tool")]),
        ],
        unwanted=[],
    )
    wrote = {"base": [(text, "empty")] * 2, text.replace("\0", ""): [(text + "!", "right call")] * 2}
    files = called(tmp_path, asked, wrote)
    html = rendered("calls", calls_by_side(columns(tmp_path, {}, files)))
    page = Page(html)
    assert page.open == []
    assert "script" not in page.tags()
    assert not any("onclick" in attributes for _, attributes in page.met)
    assert page.text.count(shown(text, 10_000).text) >= 8
    assert "\0" not in html


class TestNotShown:
    def test_where_no_calls_were_asked_for(self, tmp_path: Path) -> None:
        assert calls_by_side([Respondent("base", "", tmp_path, {}, None)]) is None

    def test_a_run_of_an_earlier_version_says_why(self, three: list[Respondent], tmp_path: Path) -> None:
        (tmp_path / "asked" / f"calls-{KEY}.json").unlink()
        found = calls_by_side(three)
        assert found is not None
        assert f"does not hold asked/calls-{KEY}.json" in str(found.reason)
        assert "The same command, run again, adds what is missing." in rendered("calls", found)

    def test_models_that_were_asked_other_requests(self, three: list[Respondent], tmp_path: Path) -> None:
        other = Respondent("other", "", tmp_path, {}, "scores/calls-ff-0.json")
        assert "not all of the models were asked the same" in str(calls_by_side([*three, other]).reason)

    @pytest.mark.parametrize("folder", ["asked", "scores"])
    def test_a_damaged_file_is_refused_by_name(self, three: list[Respondent], tmp_path: Path, folder: str) -> None:
        file = next(iter(sorted((tmp_path / folder).iterdir())))
        file.write_text("{}")
        with pytest.raises(TinyEngramError, match=rf"{file.name} cannot be read .*Delete it and run the same command"):
            calls_by_side(three)

    def test_answers_to_other_requests_are_refused(
        self, three: list[Respondent], tmp_path: Path, asked: AskedCalls
    ) -> None:
        asked.wanted.pop()
        called(tmp_path, asked, {"base": [(NO, "declines in prose")] * 2})
        with pytest.raises(TinyEngramError, match=r"calls-\w+-1.json does not answer what .*Delete both"):
            calls_by_side(three)


def test_a_measured_checkpoint_names_its_files(tmp_path: Path) -> None:
    kept = Retention(mc1=0, mc2=0, margin=0, shift=None, delta_mc1=None, delta_mc2=None, scores_file="scores/t.json")
    calls = CallAccuracy(
        parses=0, functions=0, right=0, refrains=None, wanted_asked=1, unwanted_asked=0, file="scores/c.json"
    )
    row = Measurement(
        arm="lora",
        role="matched",
        seed=3,
        step=8,
        eval_loss_whole=1,
        eval_loss_answer=1,
        retention={"chat": kept},
        accuracy={"arc-easy": {"plain": Accuracy(acc=0, acc_norm=0, margin=0, delta_acc_norm=None, file="a.json")}},
        calls=calls,
    )
    found = respondent("lora", row, tmp_path)
    assert found.which == "seed 3, step 8"
    assert found.choices == {("truthfulqa", "chat"): "scores/t.json", ("arc-easy", "plain"): "a.json"}
    assert found.calls == "scores/c.json"
    base = respondent("base", row.model_copy(update={"seed": None, "calls": None}), tmp_path)
    assert (base.which, base.calls) == ("", None)
