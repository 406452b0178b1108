"""Glaive: whole conversations, and the experiment's filter, which takes one turn of each."""

from __future__ import annotations

import json

import pytest

from tests.tasks.formats.chats import GLAIVE_SYSTEM, RESULTS, TURNS, WEATHER, glaive, read
from tinyengram.sources import Row
from tinyengram.tasks.conversations import Call, Conversation, Turn
from tinyengram.tasks.formats import LeftOutError, MalformedError, glaive_experiment

ANNOUNCED = "You are a helpful assistant with access to the following functions. Use them if required -"


def chat(text: str, system: str = "SYSTEM: Be brief.\n") -> Conversation:
    return read("glaive", {"system": system, "chat": text})


def called(written: str) -> tuple[Call, ...]:
    return chat(f"USER: a\n\n\nASSISTANT: <functioncall> {written} <|endoftext|>").turns[2].calls


class TestWhole:
    def test_all_turns_are_kept_with_the_functions_apart(self) -> None:
        conversation = read("glaive", glaive())
        last = (Turn("user", "Thanks."), Turn("assistant", "Any time."))
        assert conversation.turns == (Turn("system", ANNOUNCED), *TURNS[1:5], *last)
        assert conversation.tools == (WEATHER,)
        assert conversation.learnt == (2, 4, 6)

    def test_functions_follow_one_another(self) -> None:
        system = GLAIVE_SYSTEM + json.dumps(WEATHER, indent=2) + "\n\n" + json.dumps({"name": "g"}) + "\n"
        assert [tool["name"] for tool in chat("USER: a", system).tools] == ["weather", "g"]

    def test_rows_without_functions_keep_their_turns(self) -> None:
        conversation = chat(
            "USER: a\n\n\nASSISTANT: b <|endoftext|>\n\n\n", "SYSTEM: No access to external functions.\n"
        )
        assert conversation.tools == ()
        assert conversation.turns == (
            Turn("system", "No access to external functions."),
            Turn("user", "a"),
            Turn("assistant", "b"),
        )

    @pytest.mark.parametrize(
        ("written", "arguments"),
        [
            ("""{"name": "f", "arguments": '{"a": "it's"}'}""", {"a": "it's"}),
            (r"""{"name": "f", "arguments": '{"a": "it\'s"}'}""", {"a": "it's"}),
            ("""{"name": "f", "arguments": '{"a": "x'}"}'}""", {"a": "x'}"}),
            ("""{"name": "f", "arguments": '{\n  "a": [1, {"b": 2}]\n}'}""", {"a": [1, {"b": 2}]}),
            ("""{"name": "f", "arguments": {"a": 1}}""", {"a": 1}),
            ("""{"name": "f", "arguments": "{\\"a\\": 1}"}""", {"a": 1}),
            ("""{"name": "f", "arguments": '{}'}""", {}),
        ],
    )
    def test_calls(self, written: str, arguments: dict) -> None:
        assert called(written) == (Call("f", arguments),)

    def test_several_calls_of_a_turn(self) -> None:
        two = '{"name": "f", "arguments": \'{}\'} <functioncall> {"name": "g", "arguments": \'{}\'}'
        assert [call.name for call in called(two)] == ["f", "g"]

    @pytest.mark.parametrize(
        ("text", "reason"),
        [
            ("USER: a\nASSISTANT: <functioncall> f(a=1)", "the call in turn 2 of 'chat' must"),
            ('USER: a\nASSISTANT: <functioncall> {"name": "f", "arguments": \'[1]\'}', "must be a JSON object"),
            ('USER: a\nASSISTANT: <functioncall> {"name": "f", "arguments": \'{1}\'}', "not valid JSON"),
            ("USER: a\nASSISTANT: <tool_code> f()", "<tool_code>, which is not read"),
            ("USER: a\nASSISTANT: b <|endoftext|> c", "has <|endoftext|> before its end"),
            ("Hello. USER: a", "must begin with USER: or ASSISTANT:"),
        ],
    )
    def test_what_cannot_be_read_is_refused(self, text: str, reason: str) -> None:
        with pytest.raises(MalformedError) as error:
            chat(text)
        assert reason in str(error.value)

    def test_a_marker_inside_a_line_is_text(self) -> None:
        assert chat("USER: what does ASSISTANT: mean?").turns[1] == Turn("user", "what does ASSISTANT: mean?")

    def test_broken_functions_are_refused(self) -> None:
        with pytest.raises(MalformedError, match="the functions of 'system': not valid JSON"):
            chat("USER: a", GLAIVE_SYSTEM + '{"name": "f",}')

    def test_an_empty_chat_is_nothing_to_learn(self) -> None:
        with pytest.raises(LeftOutError):
            chat(" \n")


class TestExperiment:
    """What the experiment's own filter gives, to the byte."""

    SYSTEM = "SYSTEM: You have these functions -\n{}\n"

    def read(self, text: str, system: str = SYSTEM) -> Conversation:
        return read("glaive-experiment", {"system": system, "chat": text})

    def test_system_last_user_turn_and_the_cut_call_as_text(self) -> None:
        conversation = read("glaive-experiment", glaive())
        written = f'I look. <functioncall> {{"name": "weather", "arguments": \'{json.dumps({"city": "Oslo"})}\'}}'
        assert conversation.turns == (
            Turn("system", glaive()["system"].strip()),
            Turn("user", "Weather in Oslo?"),
            Turn("assistant", written, calls_in_text=1),
        )
        assert (conversation.learnt, conversation.tools) == ((2,), ())

    def test_the_first_calling_turn_counts_with_the_user_turn_right_before_it(self) -> None:
        turns = self.read(
            "USER: one\nASSISTANT: Sure, which?\nUSER: two\nASSISTANT: <functioncall> {1}\nUSER: x\nASSISTANT: "
            "<functioncall> {2}"
        ).turns
        assert turns[1:] == (Turn("user", "two"), Turn("assistant", "<functioncall> {1}", calls_in_text=1))

    def test_tool_code_is_a_call_too(self) -> None:
        assert self.read("USER: a\nASSISTANT: <tool_code> f()").turns[-1].text == "<tool_code> f()"

    def test_an_empty_system_text_leaves_the_turn_out(self) -> None:
        assert [turn.role for turn in self.read("USER: a\nASSISTANT: <functioncall> {}", " \n").turns] == [
            "user",
            "assistant",
        ]

    @pytest.mark.parametrize(
        ("chat", "system", "reason"),
        [
            (
                "USER: a\nASSISTANT: <functioncall> {}",
                "You have no access to external functions.",
                "no functions offered",
            ),
            ("USER: a\nASSISTANT: No call here.", SYSTEM, "no assistant turn calls a function"),
            ("ASSISTANT: hello\nASSISTANT: <functioncall> {}", SYSTEM, "no user turn right before the call"),
            ("USER: a\nASSISTANT: well USER: b <functioncall>", SYSTEM, "the cut turn holds no call"),
        ],
    )
    def test_what_the_filter_drops(self, chat: str, system: str, reason: str) -> None:
        with pytest.raises(LeftOutError, match=reason):
            self.read(chat, system)

    def test_what_it_passes_over_is_counted(self) -> None:
        values = glaive()
        again = f"USER: b\n\n\nASSISTANT: <functioncall> {{}} <|endoftext|>\n\n\nFUNCTION RESPONSE: {RESULTS[0]}"
        assert glaive_experiment.passed_over(Row("f:1", {**values, "chat": values["chat"] + again})) == (3, 1)
