"""OpenAI's messages as people really have them: null content, older keys, parts, ids that begin anew, filled tables."""

from __future__ import annotations

from typing import Any

import pytest

from tests.tasks.formats.chats import TOOLS, openai, read
from tinyengram.tasks.conversations import Call, Turn
from tinyengram.tasks.formats import MalformedError

USER = {"role": "user", "content": "Hi"}


def turns(*messages: dict, **row: Any) -> tuple[Turn, ...]:
    return read("openai", {"messages": list(messages), **row}).turns


def calling(name: str = "f", arguments: Any = "{}", **more: Any) -> dict:
    return {"role": "assistant", "tool_calls": [{"function": {"name": name, "arguments": arguments}, **more}]}


def refused(*messages: dict, **row: Any) -> str:
    with pytest.raises(MalformedError) as error:
        turns(*messages, **row)
    return str(error.value)


class TestRoles:
    def test_older_and_newer_names(self) -> None:
        asked = {"role": "assistant", "content": None, "function_call": {"name": "f", "arguments": '{"a": 1}'}}
        answer = {"role": "function", "name": "f", "content": "2"}
        read_ = turns({"role": "developer", "content": "Be brief."}, USER, asked, answer, functions=[{"name": "f"}])
        assert read_[0] == Turn("system", "Be brief.")
        assert read_[2:] == (Turn("assistant", "", (Call("f", {"a": 1}),)), Turn("tool", "2", name="f", answers=0))

    def test_system_texts_at_the_start_are_joined(self) -> None:
        system = {"role": "system", "content": "A"}
        assert turns(system, {"role": "developer", "content": "B"}, USER)[0] == Turn("system", "A\nB")

    def test_system_text_after_the_chat_began_is_refused(self) -> None:
        assert "messages[1] is system text after the chat began" in refused(USER, {"role": "system", "content": "X"})

    def test_an_unknown_role_is_refused_by_name(self) -> None:
        assert 'messages[0] has the unknown role "narrator"' in refused({"role": "narrator", "content": "x"})

    def test_assistant_first_and_two_users_in_a_row_stay_as_they_are(self) -> None:
        hello = {"role": "assistant", "content": "Hello"}
        assert [turn.role for turn in turns(hello, USER, USER, hello)] == ["assistant", "user", "user", "assistant"]


class TestContent:
    def test_text_parts_are_joined(self) -> None:
        parts = [{"type": "text", "text": "a "}, {"type": "text", "text": "b"}]
        assert turns({"role": "user", "content": parts}) == (Turn("user", "a b"),)

    def test_any_other_part_is_refused_by_name(self) -> None:
        parts = [{"type": "text", "text": "a"}, {"type": "image_url", "image_url": {"url": "x"}}]
        assert 'messages[0].content[1] is of type "image_url"' in refused({"role": "user", "content": parts})

    @pytest.mark.parametrize("content", [5, {"a": 1}, None])
    def test_a_user_must_say_text(self, content: Any) -> None:
        assert "the text of messages[0] must be text" in refused({"role": "user", "content": content})

    def test_a_result_given_as_an_object_is_written_as_json(self) -> None:
        result = {"role": "tool", "content": {"città": ["Roma"]}}
        assert turns(USER, calling(), result)[2].text == '{"città": ["Roma"]}'

    @pytest.mark.parametrize("key", ["reasoning_content", "audio"])
    def test_what_would_be_passed_over_is_refused(self, key: str) -> None:
        assert repr(key) in refused(USER, {"role": "assistant", "content": "x", key: "thoughts"})

    def test_a_call_in_tags_is_not_trained_as_text(self) -> None:
        message = {"role": "assistant", "content": '<tool_call>\n{"name": "f", "arguments": {}}\n</tool_call>'}
        assert "format: hermes" in refused(USER, message)


class TestCalls:
    @pytest.mark.parametrize("nothing", [None, "", {}, "{}", " "])
    def test_no_arguments(self, nothing: Any) -> None:
        assert turns(USER, calling(arguments=nothing))[1].calls == (Call("f", {}),)

    @pytest.mark.parametrize(
        ("arguments", "reason"),
        [
            ("{broken", 'the arguments of "f" in messages[1].tool_calls[0]: not valid JSON'),
            ("[1]", "must be a JSON object"),
            ('"{}"', "must be a JSON object"),
            ([1], "must be a JSON object"),
            ('{"a": NaN}', "holds nan, which JSON does not know"),
            ('{"a": 1e999}', "holds inf"),
        ],
    )
    def test_arguments_that_are_no_object_are_refused(self, arguments: Any, reason: str) -> None:
        assert reason in refused(USER, calling(arguments=arguments))

    def test_a_call_that_is_no_object_is_refused_by_name(self) -> None:
        message = {"role": "assistant", "content": "", "tool_calls": ["x"]}
        assert 'messages[1].tool_calls[0] must be an object {"name", "arguments"}, not "x"' in refused(USER, message)

    def test_arguments_under_another_name_are_refused(self) -> None:
        message = {"role": "assistant", "tool_calls": [{"name": "f", "parameters": {"a": 1}}]}
        assert "\"parameters\" where its 'arguments' should be" in refused(USER, message)

    def test_only_the_assistant_calls(self) -> None:
        assert "'tool_calls' is not read" in refused({**calling(), "role": "user", "content": "x"})

    def test_large_integers_stay_exact(self) -> None:
        assert turns(USER, calling(arguments=f'{{"a": {10**40}}}'))[1].calls[0].arguments == {"a": 10**40}

    def test_weight_0_is_not_learnt(self) -> None:
        spoken = {"role": "assistant", "content": "x"}
        row = {"messages": [USER, {**spoken, "weight": 0}, USER, {**spoken, "weight": 1}]}
        assert read("openai", row).learnt == (3,)


class TestResults:
    def test_ids_may_come_in_any_order_and_begin_anew_in_every_turn(self) -> None:
        two = {
            "role": "assistant",
            "tool_calls": [{"id": name, "function": {"name": name, "arguments": "{}"}} for name in ("a", "b")],
        }
        results = [{"role": "tool", "tool_call_id": name, "content": name} for name in ("b", "a")]
        read_ = turns(USER, two, *results, two, *results)
        assert [(turn.name, turn.answers) for turn in read_ if turn.role == "tool"] == [
            ("b", 1),
            ("a", 0),
            ("b", 3),
            ("a", 2),
        ]

    def test_an_id_that_no_call_has_is_refused(self) -> None:
        reason = refused(USER, calling(id="x"), {"role": "tool", "tool_call_id": "y", "content": ""})
        assert 'messages[2] answers the call "y", which no turn before it made ("x")' in reason

    def test_without_ids_a_name_decides_and_then_the_order(self) -> None:
        two = {"role": "assistant", "tool_calls": [{"name": "a"}, {"name": "b"}]}
        results = ({"role": "tool", "name": "b", "content": "1"}, {"role": "tool", "content": "2"})
        assert [turn.answers for turn in turns(USER, two, *results)[2:]] == [1, 0]

    def test_a_result_before_any_call_answers_none(self) -> None:
        assert turns({"role": "tool", "content": "1"}, USER)[0] == Turn("tool", "1")

    def test_a_result_too_many_answers_none(self) -> None:
        result = {"role": "tool", "content": "1"}
        assert [turn.answers for turn in turns(USER, calling(), result, result)[2:]] == [0, None]


TWO = {"name": "f", "parameters": {"type": "object", "properties": {"a": {"type": "integer"}, "b": {}}}}


class TestNulls:
    """A file that went through a table has a null for each argument of every other function."""

    def arguments(self, arguments: dict, tool: dict | None = None) -> dict:
        return turns(USER, calling(arguments=arguments), tools=[tool or TWO])[1].calls[0].arguments

    def test_a_null_that_the_function_does_not_know_goes_and_takes_the_other_fillers_along(self) -> None:
        assert self.arguments({"a": 1, "b": None, "city": None, "unit": None}) == {"a": 1}

    def test_a_null_that_was_meant_stays(self) -> None:
        assert self.arguments({"a": 1, "b": None}) == {"a": 1, "b": None}

    @pytest.mark.parametrize(
        ("schema", "stays"),
        [
            ({"type": ["string", "null"]}, True),
            ({"type": "null"}, True),
            ({"type": "string", "nullable": True}, True),
            ({"enum": ["a", None]}, True),
            ({"anyOf": [{"type": "string"}, {"type": "null"}]}, True),
            ({"type": ["string", "integer"], "enum": ["a"], "anyOf": [{}], "nullable": False}, False),
            (True, False),
        ],
    )
    def test_among_fillers_a_null_stays_where_the_schema_allows_it(self, schema: Any, stays: bool) -> None:
        inner = {"type": "object", "properties": {"b": schema}} if isinstance(schema, dict) else {"properties": {}}
        tool = {"name": "f", "parameters": {"type": "object", "properties": {"o": inner}}}
        assert self.arguments({"o": {"b": None, "city": None}}, tool) == {"o": {"b": None} if stays else {}}

    def test_nulls_inside_go_by_the_schema_inside(self) -> None:
        inner = {"type": "object", "properties": {"x": {"type": "integer"}}}
        tool = {"name": "f", "parameters": {"properties": {"p": inner, "l": {"type": "array", "items": inner}}}}
        filled = {"x": 1, "y": None}
        assert self.arguments({"p": filled, "l": [filled]}, tool) == {"p": {"x": 1}, "l": [{"x": 1}]}

    def test_a_function_that_takes_anything_or_is_not_offered_keeps_its_nulls(self) -> None:
        anything = {"name": "f", "parameters": {"type": "object", "properties": {}, "additionalProperties": True}}
        assert self.arguments({"z": None}, anything) == {"z": None}
        assert self.arguments({"z": None}, {"name": "other"}) == {"z": None}

    def test_null_keys_of_messages_and_calls_are_as_if_absent(self) -> None:
        empty = ("tool_calls", "tool_call_id", "name", "function_call", "weight", "reasoning_content")
        filled = [{**dict.fromkeys(empty), **message} for message in openai()["messages"]]
        assert turns(*filled, tools=TOOLS) == turns(*openai()["messages"], tools=TOOLS)


@pytest.mark.parametrize("key", ["images", "videos"])
def test_media_beside_the_messages_are_refused(key: str) -> None:
    assert f"{key!r} is not read" in refused(USER, **{key: ["x.png"]})


def test_rows_without_messages_name_their_keys() -> None:
    with pytest.raises(MalformedError, match="needs 'messages' or 'conversations', has the keys 'prompt', 'answer'"):
        read("openai", {"prompt": "x", "answer": "y"})
