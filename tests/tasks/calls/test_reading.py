"""Calls are read back as they were written, in each format; what only looks like a call is not taken for one."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tinyengram.tasks.calls.reading import CallFormat, Read, read_calls
from tinyengram.tasks.conversations import Call

ONE = Call("get_weather", {"city": "Paris", "days": 2})
TWO = Call("pkg.book", {"seats": [1, 2.5], "options": {"meal": None, "window": True}})
BOTH = (ONE, TWO)
OFFERED = ("get_weather", "pkg.book", "Market Trends API")


def spelt(call: Call, key: str = "arguments") -> str:
    return json.dumps({"name": call.name, key: call.arguments}, ensure_ascii=False)


def in_tool_calls(calls: tuple[Call, ...]) -> str:
    functions = [{"name": call.name, "arguments": json.dumps(call.arguments)} for call in calls]
    return json.dumps({"tool_calls": [{"id": "call_1", "type": "function", "function": one} for one in functions]})


def in_python(calls: tuple[Call, ...]) -> str:
    written = (", ".join(f"{name}={value!r}" for name, value in call.arguments.items()) for call in calls)
    return f"[{', '.join(f'{call.name}({inner})' for call, inner in zip(calls, written, strict=True))}]"


def in_glaive(call: Call, apostrophe: str) -> str:
    arguments = json.dumps(call.arguments).replace("'", apostrophe)
    return f"""<functioncall> {{"name": {json.dumps(call.name)}, "arguments": '{arguments}'}}"""


WRITERS: dict[str, tuple[CallFormat, Callable[[tuple[Call, ...]], str]]] = {
    "ours": ("functioncall", lambda calls: "\n".join(f"<functioncall> {spelt(call)}" for call in calls)),
    "ours, arguments as text": (
        "functioncall",
        lambda calls: "".join(
            f"<functioncall>{json.dumps({'name': call.name, 'arguments': json.dumps(call.arguments)})}"
            for call in calls
        ),
    ),
    "Glaive": ("functioncall", lambda calls: "\n".join(in_glaive(call, "'") for call in calls)),
    "Glaive, escaped": ("functioncall", lambda calls: "\n".join(in_glaive(call, r"\'") for call in calls)),
    "Hermes": ("hermes", lambda calls: "\n".join(f"<tool_call>\n{spelt(call)}\n</tool_call>" for call in calls)),
    "Hermes, last tag missing": (
        "hermes",
        lambda calls: "</tool_call>\n".join(f"<tool_call>{spelt(call)}" for call in calls),
    ),
    "Hermes, Python quotes": (
        "hermes",
        lambda calls: "".join(
            f"<tool_call>{ {'name': call.name, 'arguments': call.arguments}!r}</tool_call>" for call in calls
        ),
    ),
    "SmolLM2": ("hermes", lambda calls: f"<tool_call>[{', '.join(map(spelt, calls))}]</tool_call>"),
    "Llama": ("llama", lambda calls: "; ".join(spelt(call, "parameters") for call in calls)),
    "Llama, lines": ("llama", lambda calls: "\n".join(spelt(call, "parameters") for call in calls)),
    "Llama, tagged": (
        "llama",
        lambda calls: "<|python_tag|>" + "; ".join(spelt(call, "parameters") for call in calls) + "<|eom_id|>",
    ),
    "Mistral v3": ("mistral", lambda calls: f"[TOOL_CALLS] [{', '.join(map(spelt, calls))}]</s>"),
    "Mistral v11": (
        "mistral",
        lambda calls: "".join(
            f"[TOOL_CALLS]{call.name}[CALL_ID]a1b2c3d4e[ARGS]{json.dumps(call.arguments)}" for call in calls
        ),
    ),
    "Mistral v13": (
        "mistral",
        lambda calls: "".join(f"[TOOL_CALLS]{call.name}[ARGS]{json.dumps(call.arguments)}" for call in calls) + "</s>",
    ),
    "Mistral, no ARGS": (
        "mistral",
        lambda calls: "".join(f"[TOOL_CALLS]{call.name}{json.dumps(call.arguments)}" for call in calls),
    ),
    "JSON": ("json", lambda calls: "\n".join(map(spelt, calls))),
    "JSON array": ("json", lambda calls: f"[{', '.join(map(spelt, calls))}]"),
    "JSON, fenced": ("json", lambda calls: f"```json\n[{', '.join(map(spelt, calls))}]\n```"),
    "OpenAI": ("json", in_tool_calls),
    "OpenAI, function": ("json", lambda calls: "".join(f'{{"function": {spelt(call)}}}' for call in calls)),
    "Python": ("python", in_python),
    "Python, fenced": ("python", lambda calls: f"```python\n{in_python(calls)}\n```"),
}


@pytest.mark.parametrize("writer", WRITERS)
def test_each_format_is_read(writer: str) -> None:
    format, write = WRITERS[writer]
    for calls in ((ONE,), (TWO,), BOTH, (ONE, ONE)):
        assert read_calls(write(calls)) == Read(format, calls, "")


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
names = st.from_regex(r"[a-z_][a-z0-9_]{0,8}(\.[a-z][a-z0-9]{0,3})?", fullmatch=True)
arguments = st.dictionaries(st.from_regex(r"[a-z_][a-z0-9_]{0,8}", fullmatch=True), json_values, max_size=4)
some_calls = st.lists(st.builds(Call, names, arguments), min_size=1, max_size=3).map(tuple)


@pytest.mark.parametrize("writer", WRITERS)
@settings(max_examples=30, deadline=None)
@given(calls=some_calls)
@example(calls=(Call("f", {"a": "'{\"b\": 1}'", "b": "}'", "c": r"\'{\"}'"}),))
@example(calls=(Call("f", {"from": "class=1, in=2", "class": [{"lambda": "def=3"}]}),))
@example(calls=(Call("f", {"a": 'it\'s; "so", `x` [f(a=1)] {'}), Call("g", {})))
def test_calls_are_read_back_equal_whatever_they_hold(writer: str, calls: tuple[Call, ...]) -> None:
    format, write = WRITERS[writer]
    assert read_calls(write(calls)) == Read(format, calls, "")


@pytest.mark.parametrize("marker", ["<functioncall>", "<tool_call>", "[TOOL_CALLS]", "<|python_tag|>", "<|im_end|>"])
@pytest.mark.parametrize("writer", WRITERS)
def test_markers_within_strings_are_text(writer: str, marker: str) -> None:
    format, write = WRITERS[writer]
    calls = (Call("f", {"a": f"{marker} x"}), Call("g", {"b": marker}))
    assert read_calls(write(calls)) == Read(format, calls, "")


PIECES = [
    *("<functioncall>", "<tool_call>", "</tool_call>", "[TOOL_CALLS]", "[ARGS]", "<|python_tag|>", "<|im_end|>"),
    *("<think>", "</think>", "```", "```json\n", "`", "{", "}", "[", "]", "(", ")", '"', "'", "\\", ",", ";", ":", "="),
    *('{"name": "f", "arguments": ', '{"name": "f", "parameters": {}}', '{"tool_calls": [', '"function": ', "'{"),
    *("f(", "[f(a=", "f(a=1)", "get_weather(", "\n", " ", "null", "NaN", "1e999", "9" * 5000, "x", "\ud800", "\x00"),
    *("lambda: ", "- ", "not ", "a.b.", "f'{x}'", "b''", "...", "**", "from=", "é", "李"),
]


@settings(max_examples=300, deadline=None)
@given(st.lists(st.sampled_from(PIECES) | st.text(max_size=3), max_size=25).map("".join))
def test_reading_never_raises(text: str) -> None:
    read = read_calls(text, offered=OFFERED)
    assert read.calls is None or bool(read.calls) is (read.format is not None)


@pytest.mark.parametrize(
    ("text", "format", "beside"),
    [
        (f"Sure. <functioncall> {spelt(ONE)} Done.", "functioncall", "Sure.\nDone."),
        (f"{in_glaive(ONE, chr(39))} <|endoftext|>", "functioncall", ""),
        (f"<think>\nget_weather? <tool_call>\n</think>\n\n<tool_call>{spelt(ONE)}</tool_call>", "hermes", ""),
        (f"Let me see.\n<tool_call>\n{spelt(ONE)}\n</tool_call><|im_end|>", "hermes", "Let me see."),
        (f"[TOOL_CALLS] [{spelt(ONE)}] Wait.", "mistral", "Wait."),
        (f"{spelt(ONE)}\n\nI called it.", "json", "I called it."),
        (f"Here:\n```json\n{spelt(ONE)}\n```", "json", "Here:"),
        (f"I will use {spelt(ONE, 'parameters')} now.", "llama", "I will use\nnow."),
        (f'<|eot_id|>{{"type": "function", {spelt(ONE, "parameters")[1:]}', "llama", ""),
        ('get_weather(city="Paris", days=2)', "python", ""),
        ('`get_weather(city="Paris", days=2)`', "python", ""),
        (f'{{"parameters": {{}}, {spelt(ONE)[1:]}', "json", ""),
        (f"[{spelt(ONE, 'parameters')}]", "json", ""),
        ('Sure!\n\n[get_weather(city="Paris", days=2)]\nThat is all.', "python", "Sure!\n\nThat is all."),
        ('Like so:\n```python\nget_weather(\n  city="Paris",\n  days=2,\n)\n```', "python", "Like so:"),
    ],
)
def test_text_beside_a_call(text: str, format: str, beside: str) -> None:
    read = read_calls(text, offered=OFFERED)
    assert (read.format, read.calls) == (format, (ONE,))
    assert read.text.replace("\n\n", "\n") == beside.replace("\n\n", "\n")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "No.",
        "You can call print(x) or get_weather(city) for that.",
        "print(x)",
        'search(query="x")',
        "[print(x)]",
        "[1](https://example.com/a(b=1))",
        "get_weather(city) is what I would need.",
        'I could get_weather(city="Paris", days=2) but will not.',
        '{"name": "Bob", "age": 3}',
        '[{"name": "Bob"}, {"name": "Ann"}]',
        'The answer is {"temperature": 20}.',
        'One could write {"name": "search", "arguments": {"q": 1}} if that were offered.',
        '{"name": "get_weather", "parameters": {"type": "object", "properties": {"city": {"type": "string"}}}}',
        '{"name": "get_weather", "description": "d", "parameters": {"type": "object", "properties": {"city": 1',
        'I have {"name": "get_weather", "parameters": {"type": "dict", "properties": {"city": {}}}}.',
        '{"parameters": {"a": 1}}',
        '{"tool_calls": []}',
        "<tool_call>[]</tool_call>",
        "[TOOL_CALLS] []",
        "[]",
        "{}",
        "Set f(x) = 3.\n[x] done",
        "What I would call is get_weather(city='Paris')",
        "get_weather(\nget_weather(days=1)\n) is nested.",
        "<think>I should <tool_call> this.</think> No.",
        "{" * 1000,
        "get_weather",
    ],
    ids=lambda text: text[:40],
)
def test_what_only_looks_like_a_call_is_none(text: str) -> None:
    read = read_calls(text, offered=OFFERED)
    assert (read.format, read.calls) == (None, ())


@pytest.mark.parametrize(
    ("text", "format"),
    [
        ('<functioncall> {"name": "f", "arguments": {', "functioncall"),
        ('<functioncall> {"name": "f"}', "functioncall"),
        ('<functioncall> {"name": "f", "parameters": {}}', "functioncall"),
        ('<functioncall> {"name": "", "arguments": {}}', "functioncall"),
        ('<functioncall> {"name": 1, "arguments": {}}', "functioncall"),
        ('<functioncall> {"name": "f", "arguments": [1]}', "functioncall"),
        ('<functioncall> {"name": "f", "arguments": "x"}', "functioncall"),
        ('<functioncall> {"name": "f", "arguments": "{} x"}', "functioncall"),
        ('<functioncall> {"name": "f", "arguments": {"a": NaN}}', "functioncall"),
        ('<functioncall> {"name": "f", "arguments": {"a": Infinity}}', "functioncall"),
        ('<functioncall> {"name": "f", "arguments": {"a": 1e999}}', "functioncall"),
        ('<functioncall> {"name": "f", "arguments": {"a": ' + "9" * 5000 + "}}", "functioncall"),
        ('<functioncall> {"name": "f", "arguments": "{\\"a\\": NaN}"}', "functioncall"),
        ("<functioncall> {'name': 'f', 'arguments': {}}", "functioncall"),
        ("<functioncall>", "functioncall"),
        (f"<functioncall> {spelt(ONE)}\n<functioncall> {{", "functioncall"),
        ('<tool_call>{"name": "f", "arguments": {}} so</tool_call>', "hermes"),
        ('<tool_call>{"name": "f", "arguments": {}} I called it.', "hermes"),
        ("<tool_call>{'name': 'f', 'arguments': {'a': open('x')}}</tool_call>", "hermes"),
        ("<tool_call>{'name': 'f', 'arguments': {'a': {1}}}</tool_call>", "hermes"),
        ("<tool_call>{'name': 'f', 'arguments': {'a': 1e999}}</tool_call>", "hermes"),
        ("<tool_call>{'name': 'f', 'arguments': {1: 2}}</tool_call>", "hermes"),
        ("<tool_call>[1]</tool_call>", "hermes"),
        ("[TOOL_CALLS] f", "mistral"),
        ('[TOOL_CALLS] {"name": "f", "arguments": {}}', "mistral"),
        ('[TOOL_CALLS] [{"name": "f", "arguments": {}}, 1]', "mistral"),
        ("<|python_tag|>print(1)", "llama"),
        ('<|python_tag|>{"name": "f"}', "llama"),
        ('<|python_tag|>{"name": "f", "parameters": {"type": "object", "properties": {}}}', "llama"),
        ('{"function": "f", "parameters": {}}', "llama"),
        ('{"name": "g", "arguments": {"a": [', "json"),
        ('{"name": "g", "parameters": {"a": [', "llama"),
        ('```json\n[{"name": "g", "arguments": {"a": [', "json"),
        ('{"tool_calls": [{"id": "call_1", "type": "function", "function": {"name": "g", "arguments": "{', "json"),
        ('{"name": "g", "arguments": "Paris"}', "json"),
        ("[g(a=1, b=", "python"),
        ("get_weather(city", "python"),
        ("get_weather('Paris')", "python"),
        ("get_weather(city=Paris)", "python"),
        ("get_weather(**{'city': 'Paris'})", "python"),
        ("get_weather(city='Paris', city='Rome')", "python"),
        ("get_weather(city=f'{x}')", "python"),
        ("get_weather(city=lambda: 1)", "python"),
        ("[get_weather(city='Paris') get_weather(city='Rome')]", "python"),
        ("[get_weather(city='Paris'), 1]", "python"),
        ("get_weather(days=[" + "1," * 70_000 + "])", "python"),
        ("get_weather(city='Paris', days=" + "9" * 5000 + ")", "python"),
        ("get_weather(days=" + "- " * 50000 + "1)", "python"),
        ("get_weather(days=a" + ".b" * 50000 + ")", "python"),
    ],
    ids=lambda text: text[:40],
)
def test_an_attempt_that_cannot_be_read_is_broken(text: str, format: str) -> None:
    assert read_calls(text, offered=OFFERED) == Read(format, None, text.strip())


def test_llamas_own_tools_are_called_as_code() -> None:
    read = read_calls('<|python_tag|>brave_search.call(query="x")<|eom_id|>')
    assert read == Read("llama", (Call("brave_search.call", {"query": "x"}),), "")


def test_json_is_read_as_json_where_python_would_differ() -> None:
    read = read_calls(r'<tool_call>{"name": "f", "arguments": {"a": "\/\ud83d\ude00"}}')
    assert read.calls == (Call("f", {"a": "/😀"}),)


def test_python_reads_what_is_spelt_in_other_ways() -> None:
    text = r"""[Market Trends API(a=(1, [2]), b=-1.5, c=true, d=null, e='x' "y", f="\d", g='''q"'s''')]"""
    call = Call(
        "Market Trends API", {"a": [1, [2]], "b": -1.5, "c": True, "d": None, "e": "xy", "f": r"\d", "g": "q\"'s"}
    )
    assert read_calls(text, offered=OFFERED).calls == (call,)
    assert read_calls(text).calls is not None
    assert read_calls(text).format is None
    several = "get_weather(days=1); get_weather(days=2)\npkg.book()"
    assert [call.name for call in read_calls(several, offered=OFFERED).calls or ()] == [ONE.name, ONE.name, TWO.name]


def test_of_a_key_that_is_given_twice_the_last_value_counts() -> None:
    text = '<functioncall> {"name": "f", "arguments": {"a": 1, "a": 2}}'
    assert read_calls(text).calls == (Call("f", {"a": 2}),)


@pytest.mark.parametrize("depth", [90, 101, 2_000, 1_000_000])
@pytest.mark.parametrize("closed", [True, False])
@pytest.mark.parametrize(
    ("before", "behind"),
    [
        ('<functioncall> {"name": "f", "arguments": {"a": ', "}}"),
        ('<functioncall> {"name": "f", "arguments": \'{"a": ', "}'}"),
        ('<tool_call>{"name": "f", "arguments": {"a": ', "}}</tool_call>"),
        ("<tool_call>{'name': 'f', 'arguments': {'a': ", "}}</tool_call>"),
        ('[TOOL_CALLS]f[ARGS]{"a": ', "}"),
        ('{"name": "f", "parameters": {"a": ', "}}"),
        ("[f(a=", ")]"),
    ],
)
def test_nesting_is_read_or_broken_and_never_a_crash(before: str, behind: str, closed: bool, depth: int) -> None:
    text = before + "[" * depth + ("]" * depth + behind if closed else "")
    read = read_calls(text)
    assert read.format is not None
    if depth > 100 or not closed:
        assert read.calls is None
    else:
        assert read.calls is not None
        assert repr(read.calls[0].arguments["a"]).count("[") == depth


def test_reading_loads_nothing_heavy() -> None:
    code = "import sys, tinyengram.tasks.calls.reading; print({'torch', 'transformers', 'scipy'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "set()\n"
