"""Generated calls are judged by what they mean, as BFCL defines it, never as text."""

from __future__ import annotations

import json

import pytest

from tinyengram.scoring.calls import judge, parse_calls, score_calls
from tinyengram.sources import load_base
from tinyengram.tasks.chat import chat_text
from tinyengram.tasks.tool_calls import ToolCall, format_call, load_tool_calls

WEATHER = ToolCall(
    "w",
    "tools",
    "Weather in Paris?",
    "",
    ground_truth=({"weather": {"city": ["Paris", "Paris, France"], "days": [1, ""], "units": ["C"]}},),
)
TWO = ToolCall("t", "", "", "", ground_truth=({"f": {"a": [1]}}, {"g": {"b": [[1.0, 2.0]]}}))


def called(name: str, **arguments: object) -> str:
    return format_call(name, arguments)


@pytest.mark.parametrize(
    ("text", "parses", "functions", "right"),
    [
        (called("weather", city="Paris", units="C"), True, True, True),
        (called("weather", units="c", city="paris-france", days=1), True, True, True),
        ("Sure. " + called("weather", city="Paris", units="C") + " Done.", True, True, True),
        (called("weather", city="Rome", units="C"), True, True, False),
        (called("weather", city="Paris"), True, True, False),
        (called("weather", city="Paris", units="C", days=2), True, True, False),
        (called("weather", city="Paris", units="C", extra=1), True, True, False),
        (called("climate", city="Paris", units="C"), True, False, False),
        (called("weather", city="Paris", units="C") * 2, True, False, False),
        ('<functioncall> {"name": "weather", "arguments": {', False, False, False),
        ('<functioncall> {"name": "weather"}', False, False, False),
        ("It is sunny.", False, False, False),
    ],
)
def test_one_call(text: str, parses: bool, functions: bool, right: bool) -> None:
    verdict = judge(WEATHER, text)
    assert (verdict.parses, verdict.functions, verdict.right) == (parses, functions, right)
    assert verdict.refrains is ("<functioncall>" not in text)


def test_an_argument_without_an_allowed_value_is_left_out() -> None:
    call = ToolCall("r", "", "", "", ground_truth=({"record": {"said": ["hello"], "unsaid": []}},))
    assert judge(call, called("record", said="hello")).right
    assert not judge(call, called("record", said="hello", unsaid="x")).right


def test_parallel_calls_in_any_order() -> None:
    first, second = called("f", a=1), called("g", b=[1, 2])
    assert judge(TWO, f"{first}\n{second}").right
    assert judge(TWO, f"{second}\n{first}").right
    assert not judge(TWO, first).functions
    assert not judge(TWO, f"{first}\n{called('g', b=[2, 1])}").right


def test_two_calls_of_one_function_are_paired_as_they_fit() -> None:
    call = ToolCall("p", "", "", "", ground_truth=({"f": {"a": [1, 2]}}, {"f": {"a": [1]}}))
    assert judge(call, f"{called('f', a=1)}\n{called('f', a=2)}").right
    assert not judge(call, f"{called('f', a=2)}\n{called('f', a=2)}").right


def test_objects_inside_arguments_list_what_their_keys_may_be() -> None:
    call = ToolCall("o", "", "", "", ground_truth=({"f": {"a": [{"x": [1, 2], "y": ["z", ""]}]}},))
    assert judge(call, called("f", a={"x": 2})).right
    assert judge(call, called("f", a={"x": 1, "y": "Z"})).right
    assert not judge(call, called("f", a={"y": "z"})).right


@pytest.mark.parametrize(
    ("value", "allowed", "right"), [(True, 1, False), (1, 1.0, True), ("1", 1, False), (False, False, True)]
)
def test_types_matter(value: object, allowed: object, right: bool) -> None:
    assert (
        judge(ToolCall("v", "", "", "", ground_truth=({"f": {"a": [allowed]}},)), called("f", a=value)).right is right
    )


def test_without_ground_truth_the_written_output_is_right() -> None:
    call = ToolCall("o", "", "", called("f", a=1))
    assert judge(call, called("f", a=1)).right
    assert not judge(call, called("f", a=2)).right


def test_glaives_spelling_is_read() -> None:
    text = """<functioncall> {"name": "f", "arguments": '{"a": 1, "b": {"c": "it"}}'} <|endoftext|>"""
    assert parse_calls(text) == [("f", {"a": 1, "b": {"c": "it"}})]


def test_answers_of_a_batch_are_those_of_each_request_alone() -> None:
    base = load_base("tiny-random-llama")
    wanted = [ToolCall(str(i), "tools" * i, f"request {i}", "", ground_truth=({"f": {}},)) for i in range(5)]

    def prompt(call: ToolCall) -> str:
        return chat_text(call.instruction, call.input, base.tokenizer)

    options = {"prompt": prompt, "max_new_tokens": 9}
    together = score_calls(base.model, base.tokenizer, wanted[:3], wanted[3:], batch_size=5, **options)
    alone = score_calls(base.model, base.tokenizer, wanted[:3], wanted[3:], batch_size=1, **options)
    assert together == alone
    assert [verdict.id for verdict in together.wanted] == ["0", "1", "2"]
    assert together.right == 0.0
    assert together.refrains == 1.0


@pytest.mark.slow
def test_every_written_answer_of_bfcl_is_right() -> None:
    data = load_tool_calls("bfcl", eval_fraction=0.1, eval_limit=None)
    wrong = [call.id for call in data.train + data.eval if not judge(call, call.output).right]
    assert wrong == []
    assert json.loads(data.train[0].output.removeprefix("<functioncall> ").split("\n")[0])["name"]
