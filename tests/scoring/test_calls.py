"""Generated answers are asked for where the data calls, as it is trained, and each is judged once."""

from __future__ import annotations

import pytest

from tinyengram.scoring.calls import CallRequest, CallScores, requests_for_calls, score_calls
from tinyengram.sources import load_base
from tinyengram.tasks.calls.judging import judge
from tinyengram.tasks.chat_data import load_conversations
from tinyengram.tasks.conversations import Call, Conversation, Turn
from tinyengram.tasks.rendering import Renderer

ASKED, CALLED = Turn("user", "Weather?"), Turn("assistant", calls=(Call("weather", {"city": "Paris"}),))


def conversation(*turns: Turn, **options) -> Conversation:
    learnt = tuple(index for index, turn in enumerate(turns) if turn.role == "assistant")
    return Conversation("c", turns, tools=({"name": "weather"},), **{"learnt": learnt, **options})


def test_every_learnt_turn_that_calls_is_asked_for() -> None:
    chat = conversation(ASKED, CALLED, Turn("tool", "sunny"), Turn("assistant", "It is sunny."), ASKED, CALLED)
    found = requests_for_calls([chat], "hermes")
    assert [(one.turn, one.wanted) for one in found] == [(1, CALLED.calls), (5, CALLED.calls)]
    assert requests_for_calls([conversation(ASKED, CALLED, learnt=())], "hermes") == []


def test_calls_that_are_written_as_text_count_in_the_taught_format_alone() -> None:
    written = conversation(
        ASKED, Turn("assistant", '<functioncall> {"name": "weather", "arguments": {"city": "Paris"}}')
    )
    assert [one.wanted for one in requests_for_calls([written], "functioncall")] == [CALLED.calls]
    assert requests_for_calls([written], "hermes") == []


def test_answers_of_a_batch_are_those_of_each_request_alone() -> None:
    base = load_base("tiny-random-llama")
    renderer = Renderer(base.tokenizer, template="chatml")
    asked = [
        CallRequest(
            Conversation(str(i), (Turn("system", "tools" * i), Turn("user", f"request {i}"))), None, (Call("f", {}),)
        )
        for i in range(5)
    ]
    together = score_calls(base.model, renderer, asked[:3], asked[3:], batch_size=5, max_new_tokens=9)
    alone = score_calls(base.model, renderer, asked[:3], asked[3:], batch_size=1, max_new_tokens=9)
    assert together == alone
    assert [verdict.id for verdict in together.wanted] == ["0", "1", "2"]
    assert together.right == 0.0


def test_what_is_empty_or_babble_does_not_count_as_declining() -> None:
    def verdict(text: str, *wanted: Call):
        return judge(text, id="a", wanted=wanted, taught="functioncall")

    weather = Call("weather", {"city": "Paris"})
    right = '<functioncall> {"name": "weather", "arguments": {"city": "Paris"}}'
    wrong = '<functioncall> {"name": "weather", "arguments": {"city": "Rome"}}'
    other = '<tool_call>{"name": "weather", "arguments": {"city": "Paris"}}</tool_call>'
    scores = CallScores(
        wanted=[verdict(text, weather) for text in (right, wrong, other, "I cannot.")],
        unwanted=[verdict(text) for text in ("I cannot help with that.", "", "na na na " * 60, right, other)],
    )
    assert (scores.right, scores.parses, scores.functions) == (0.25, 0.5, 0.75)
    assert scores.refrains == 0.2
    assert scores.outcomes == {"right call": 1, "wrong call": 1, "call in another format": 1, "declines in prose": 1}
    assert scores.unwanted_outcomes == {
        "declines in prose": 1,
        "empty": 1,
        "degenerate": 1,
        "wrong call": 1,
        "call in another format": 1,
    }


@pytest.mark.slow
def test_written_answers_of_bfcl_are_right_but_for_those_its_own_checker_refuses() -> None:
    data = load_conversations("bfcl")
    renderer = Renderer(load_base("tiny-random-llama").tokenizer, template="chatml")
    wrong = []
    for one in data.conversations:
        text = renderer.answer(one, one.learnt[0]).removesuffix("<|im_end|>")
        verdict = judge(text, id=one.id, wanted=(), ground_truth=one.ground_truth, tools=one.tools)
        wrong += [one.id] if verdict.outcome != "right call" else []
    assert len(data.conversations) == 2351
    print(wrong)
    assert len(wrong) <= 9
