"""Hermes: tools and calls in tags; the instruction about them leaves the system text, the rest of it stays."""

from __future__ import annotations

import json

import pytest

from tests.tasks.formats.chats import HERMES_SYSTEM, TOOLS, read
from tinyengram.tasks.conversations import Call, Conversation, Turn
from tinyengram.tasks.formats import MalformedError

NOUS = (
    "You are a function calling AI model. You are provided with function signatures within <tools> </tools> XML tags. "
    "Don't make assumptions about what values to plug into functions.\n<tools>\n{tools}\n</tools>\nFor each function "
    "call return a JSON object, with the following pydantic model json schema for each:\n{{'title': 'FunctionCall'}}\n"
    "Each function call should be enclosed within <tool_call> </tool_call> XML tags. You must use <scratch_pad>."
)
QWEN = (
    "You are Q.\n\n# Tools\n\nYou may call one or more functions to assist with the user query.\n\nYou are provided "
    "with function signatures within <tools></tools> XML tags:\n<tools>\n{tools}\n</tools>\n\nFor each function call, "
    'return a json object within <tool_call></tool_call> XML tags:\n<tool_call>\n{{"name": <name>}}\n</tool_call>'
)


def chat(*pairs: tuple[str, str], **row: object) -> Conversation:
    return read("hermes", {"conversations": [{"from": role, "value": text} for role, text in pairs], **row})


def said(text: str) -> Turn:
    return chat(("human", "a"), ("gpt", text)).turns[1]


class TestSystem:
    @pytest.mark.parametrize(
        ("text", "left"),
        [(NOUS, "You are a function calling AI model."), (QWEN, "You are Q."), (HERMES_SYSTEM, "Be brief.")],
    )
    @pytest.mark.parametrize("write", [json.dumps, repr])
    def test_tools_are_read_and_the_instruction_about_them_goes(self, text: str, left: str, write) -> None:
        conversation = chat(("system", text.format(tools=write(TOOLS))), ("human", "a"), ("gpt", "b"))
        assert conversation.tools == tuple(TOOLS)
        assert conversation.turns[0] == Turn("system", left)

    def test_what_follows_the_instruction_stays(self) -> None:
        conversation = chat(("system", HERMES_SYSTEM.format(tools=json.dumps(TOOLS)) + "\nSpeak French."))
        assert conversation.turns == (Turn("system", "Be brief.\nSpeak French."),)

    def test_one_tool_a_line(self) -> None:
        lines = "\n".join(json.dumps({"type": "function", "function": {"name": name}}) for name in ("f", "g"))
        assert [tool["name"] for tool in chat(("system", QWEN.format(tools=lines))).tools] == ["f", "g"]

    def test_text_without_tools_stays_whole_and_tools_may_stand_beside(self) -> None:
        conversation = chat(("system", "Write no <tools>. Be kind."), tools=json.dumps(TOOLS))
        assert conversation.turns[0].text == "Write no <tools>. Be kind."
        assert conversation.tools == tuple(TOOLS)

    def test_tools_that_are_neither_json_nor_python_are_refused(self) -> None:
        with pytest.raises(MalformedError, match="<tools> is neither JSON nor a Python literal"):
            chat(("system", QWEN.format(tools="open('x')")))


class TestCalls:
    def test_text_on_both_sides_is_kept(self) -> None:
        turn = said("<scratch_pad>p</scratch_pad>\n<tool_call>{'name': 'f', 'arguments': {'a': None}}</tool_call>\nso")
        assert turn == Turn("assistant", "<scratch_pad>p</scratch_pad>\nso", (Call("f", {"a": None}),))

    @pytest.mark.parametrize("listed", ['[{"name": "f"}, {"name": "g"}]', '{"name": "f"}\n{"name": "g"}'])
    def test_several_in_one_tag(self, listed: str) -> None:
        assert [call.name for call in said(f"<tool_call>\n{listed}\n</tool_call>").calls] == ["f", "g"]

    @pytest.mark.parametrize(
        ("text", "reason"),
        [
            ("<tool_call>{'name': 'f'}", "without the other"),
            ("x</tool_call>", "without the other"),
            ("<tool_call>{'name': f()}</tool_call>", "neither JSON nor a Python literal"),
            ("<tool_call>{'name': 'f', 'arguments': {1, 2}}</tool_call>", "neither JSON nor a Python literal"),
            ("<tool_call></tool_call>", "neither JSON nor a Python literal"),
            ("<tool_call>{'name': 'f', 'arguments': {1: 2}}</tool_call>", "has the key 1, which must be text"),
        ],
    )
    def test_what_is_no_call_is_refused(self, text: str, reason: str) -> None:
        with pytest.raises(MalformedError, match=reason):
            said(text)

    def test_a_call_turn_of_sharegpt_is_refused(self) -> None:
        with pytest.raises(MalformedError, match="give format: sharegpt"):
            chat(("human", "a"), ("function_call", "{}"))


class TestResults:
    def test_text_beside_a_response_is_refused(self) -> None:
        with pytest.raises(MalformedError, match="has text beside its <tool_response>"):
            chat(("human", "a"), ("tool", "Here: <tool_response>1</tool_response>"))

    def test_a_result_without_tags_is_taken_as_it_is(self) -> None:
        turns = chat(("gpt", "<tool_call>{'name': 'f'}</tool_call>"), ("tool", "1")).turns
        assert turns[1] == Turn("tool", "1", name="f", answers=0)
