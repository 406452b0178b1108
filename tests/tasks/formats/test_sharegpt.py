"""ShareGPT: calls are turns of their own, results have no ids."""

from __future__ import annotations

import json

import pytest

from tests.tasks.formats.chats import read
from tinyengram.tasks.conversations import Call, Turn
from tinyengram.tasks.formats import MalformedError

F, G = ({"name": name, "arguments": {"a": 1}} for name in ("f", "g"))


def turns(*pairs: tuple[str, object]) -> tuple[Turn, ...]:
    return read("sharegpt", {"conversations": [{"from": role, "value": value} for role, value in pairs]}).turns


def refused(*pairs: tuple[str, object]) -> str:
    with pytest.raises(MalformedError) as error:
        turns(*pairs)
    return str(error.value)


def test_both_sets_of_role_names() -> None:
    read_ = turns(("user", "a"), ("assistant", "b"), ("function_call", json.dumps(F)), ("tool", "c"), ("gpt", "d"))
    assert [turn.role for turn in read_] == ["user", "assistant", "tool", "assistant"]
    assert read_[1] == Turn("assistant", "b", (Call("f", {"a": 1}),))


def test_calls_that_follow_one_another_are_parallel() -> None:
    read_ = turns(("human", "a"), ("function_call", json.dumps(F)), ("function_call", json.dumps(G)))
    assert [call.name for call in read_[1].calls] == ["f", "g"]


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ("call f", 'the call in conversations[1]: not valid JSON, Expecting value at character 1, in "call f"'),
        ("[]", "is an empty list"),
        ('{"name": "f", "arguments": "[1]"}', 'the arguments of "f" in the call in conversations[1] must be'),
        ("7", "must be an object"),
        (None, "must be text, not null"),
    ],
)
def test_a_call_that_is_none_is_refused(value: object, reason: str) -> None:
    assert reason in refused(("human", "a"), ("function_call", value))


def test_a_call_in_tags_is_not_trained_as_text() -> None:
    assert "format: hermes" in refused(("human", "a"), ("gpt", "<tool_call>{}</tool_call>"))


class TestResults:
    def answers(self, *results: str) -> list[tuple[str, int | None, str | None]]:
        calls = ("function_call", json.dumps([F, G]))
        read_ = turns(("human", "a"), calls, *(("observation", result) for result in results))
        return [(turn.text, turn.answers, turn.name) for turn in read_[2:]]

    def test_one_turn_with_a_list_of_results_becomes_a_turn_each(self) -> None:
        assert self.answers('["x", {"y": 1}]') == [("x", 0, "f"), ('{"y": 1}', 1, "g")]

    def test_a_result_that_names_its_function_is_that_functions(self) -> None:
        second, first = ('{"name": "g", "content": 2}', '{"name": "f", "content": 1}')
        assert self.answers(second, first) == [(second, 1, "g"), (first, 0, "f")]

    def test_several_results_are_taken_in_order_even_if_the_first_is_a_list(self) -> None:
        assert self.answers("[1, 2]", "3") == [("[1, 2]", 0, "f"), ("3", 1, "g")]

    def test_one_text_for_two_calls_is_nobodys(self) -> None:
        assert self.answers("both done") == [("both done", None, None)]

    def test_a_list_that_one_call_returned_stays_a_list(self) -> None:
        read_ = turns(("human", "a"), ("function_call", json.dumps(F)), ("observation", '["x"]'))
        assert read_[2] == Turn("tool", '["x"]', name="f", answers=0)

    def test_a_name_inside_a_result_is_not_a_function(self) -> None:
        read_ = turns(("human", "a"), ("function_call", json.dumps(F)), ("observation", '{"name": "Ada"}'))
        assert read_[2] == Turn("tool", '{"name": "Ada"}', name="f", answers=0)
