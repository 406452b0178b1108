"""ToolACE: Python expressions are read, never evaluated, and text that merely looks like one stays text."""

from __future__ import annotations

import json

import pytest

from tests.tasks.formats.chats import TOOLACE_SYSTEM, TOOLS, read
from tinyengram.tasks.conversations import Call, Conversation, Turn
from tinyengram.tasks.formats import MalformedError

LLAMA = (
    "You are an expert in composing functions. You are given a question. If none of the functions can be used, point "
    "it out. You should only return the function call in tools call sections.\n\nIf you decide to invoke any of the "
    "function(s), you MUST put it in the format of [func_name1(params_name1=params_value1...), func_name2(params)]\n"
    "You SHOULD NOT include any other text in the response.\nHere is a list of functions in JSON format that you can "
    "invoke.\n{tools}\n"
)


def chat(*pairs: tuple[str, str], tools: list = TOOLS) -> Conversation:
    turns = [{"from": role, "value": text} for role, text in pairs]
    return read("toolace", {"system": TOOLACE_SYSTEM.format(tools=json.dumps(tools)), "conversations": turns})


def said(text: str) -> Turn:
    return chat(("user", "a"), ("assistant", text)).turns[2]


@pytest.mark.parametrize(
    ("text", "calls"),
    [
        ('[weather(city="Oslo")]', [("weather", {"city": "Oslo"})]),
        ("[ weather ( city = 'a, b) [c]' , ) ]", [("weather", {"city": "a, b) [c]"})]),
        ('[Get Weather(c="x"), a/b.c(n=-1, f=1e3)]', [("Get Weather", {"c": "x"}), ("a/b.c", {"n": -1, "f": 1e3})]),
        ("[f(from='a', class=[1, {'b': True}])]", [("f", {"from": "a", "class": [1, {"b": True}]})]),
        ("[f(is-on=false, n=None, z=null)]", [("f", {"is-on": False, "n": None, "z": None})]),
        ("[f(t=(1, 2), s='it\\'s', q=\"\\\"\")]", [("f", {"t": [1, 2], "s": "it's", "q": '"'})]),
        ("[f()]", [("f", {})]),
        ("[f(a=1),\n g(b='\"')]\n", [("f", {"a": 1}), ("g", {"b": '"'})]),
    ],
)  # fmt: skip
def test_expressions(text: str, calls: list) -> None:
    turn = said(text)
    assert [(call.name, call.arguments) for call in turn.calls] == calls
    assert turn.text == ""


@pytest.mark.parametrize(
    "text", ["[1, 2]", "[sic (1)]", "See [the manual](http://x).", "[f(x)] or [g]", "[]", "[f(a=1)"]
)
def test_text_that_is_no_call_of_an_offered_function_stays_text(text: str) -> None:
    assert said(text) == Turn("assistant", text)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("[weather(city=Oslo)]", "neither JSON nor a Python literal"),
        ("[weather(city=open('x'))]", "neither JSON nor a Python literal"),
        ("[weather('Oslo')]", "needs the name of its argument"),
        ('[weather(city="Oslo"]', "unclosed"),
        ('[weather(city="Oslo)]', "unclosed"),
        ("[weather(city='a', city='b')]", "gives the argument \"city\" of \"weather\" twice"),
        ("[weather(city=1), weather]", "must look like"),
        ("[weather(city='a')]\n[weather(city='b')]", "two lists of calls"),
    ],
)  # fmt: skip
def test_a_broken_call_of_an_offered_function_is_refused(text: str, reason: str) -> None:
    with pytest.raises(MalformedError) as error:
        said(text)
    assert reason in str(error.value)


def test_a_call_beside_text() -> None:
    assert said("Sure: [weather(city='a')] ok") == Turn("assistant", "Sure:\nok", (Call("weather", {"city": "a"}),))


def test_the_notation_leaves_the_system_text() -> None:
    turns = [{"from": "user", "value": "a"}]
    conversation = read("toolace", {"system": LLAMA.format(tools=json.dumps(TOOLS)), "conversations": turns})
    kept = "You are an expert in composing functions. You are given a question. If none of the functions can be used,"
    assert conversation.turns[0].text == f"{kept} point it out."
    assert conversation.tools == tuple(TOOLS)


def test_the_functions_may_stand_in_a_system_turn() -> None:
    turns = [
        {"from": "system", "value": TOOLACE_SYSTEM.format(tools=json.dumps(TOOLS))},
        {"from": "user", "value": "a"},
    ]
    conversation = read("toolace", {"system": "Today is Monday.", "conversations": turns})
    assert conversation.turns[0] == Turn("system", "Today is Monday.\nBe brief.")
    assert conversation.tools == tuple(TOOLS)


def test_types_of_python_become_json_schemas() -> None:
    schema = {"type": "dict", "properties": {"n": {"type": "float"}, "l": {"type": "list", "items": {"type": "int"}}}}
    tool = chat(tools=[{"name": "f", "description": "d", "parameters": schema, "required": None}]).tools[0]
    inner = {"n": {"type": "number"}, "l": {"type": "array", "items": {"type": "integer"}}}
    assert tool == {"name": "f", "description": "d", "parameters": {"type": "object", "properties": inner}}


def test_results_of_named_calls() -> None:
    results = '[{"name": "g", "results": 1}, {"name": "f", "results": 2}]'
    read_ = chat(("user", "a"), ("assistant", "[f(), g()]"), ("tool", results)).turns
    assert [(turn.name, turn.answers, turn.text) for turn in read_[3:]] == [
        ("g", 1, '{"name": "g", "results": 1}'),
        ("f", 0, '{"name": "f", "results": 2}'),
    ]
