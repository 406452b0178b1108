"""Each answer has exactly one outcome, and a call is judged by what it means, never as text."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from itertools import permutations
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tinyengram.tasks.calls.judging import can_be_paired, judge, same_value
from tinyengram.tasks.conversations import Call

PARIS = Call("weather", {"city": "Paris", "days": 1})
TOOLS = (
    {
        "name": "weather",
        "parameters": {
            "type": "object",
            "properties": {
                "city": {"type": "string"},
                "days": {"type": "integer"},
                "units": {"type": "string"},
            },
            "required": ["city"],
        },
    },
)
TRUTH = ({"weather": {"city": ["Paris", "Paris, France"], "days": [1, ""], "units": ["C"]}},)


def written(*calls: Call) -> str:
    return "\n".join(f"<functioncall> {json.dumps(call.__dict__)}" for call in calls)


@pytest.mark.parametrize(
    ("text", "outcome", "format", "functions", "content_right"),
    [
        (written(PARIS), "right call", "functioncall", True, True),
        (f"Sure. {written(PARIS)} Done.<|im_end|>", "right call", "functioncall", True, True),
        (written(Call("weather", {"city": "Rome", "days": 1})), "wrong call", "functioncall", True, False),
        (written(Call("climate", PARIS.arguments)), "wrong call", "functioncall", False, False),
        (written(PARIS, PARIS), "wrong call", "functioncall", False, False),
        ('<functioncall> {"name": "weather", "arguments": {', "broken call", "functioncall", False, False),
        ('<tool_call>{"name": "weather"', "broken call", "hermes", False, False),
        ('weather(city="Par', "broken call", "python", False, False),
        (f"<tool_call>{json.dumps(PARIS.__dict__)}</tool_call>", "call in another format", "hermes", True, True),
        ('[weather(city="Paris", days=1)]', "call in another format", "python", True, True),
        ('weather(city="Rome", days=1)', "call in another format", "python", True, False),
        ('{"name": "weather", "parameters": {"city": 1}}', "call in another format", "llama", True, False),
        ("I cannot tell the weather.", "declines in prose", None, False, False),
        ("[]", "declines in prose", None, False, False),
        ("<tool_call>[ ]</tool_call>", "declines in prose", None, False, False),
        ("", "empty", None, False, False),
        (" \n<|im_end|>\n<|endoftext|>", "empty", None, False, False),
        ("<think>\n\n</think>\n\n", "empty", None, False, False),
        ("</s><pad><pad>", "empty", None, False, False),
        ("the " * 50, "degenerate", None, False, False),
        ("{" * 50, "degenerate", None, False, False),
    ],
)
def test_an_answer_where_a_call_is_wanted(
    text: str, outcome: str, format: str | None, functions: bool, content_right: bool
) -> None:
    verdict = judge(text, id="w", wanted=[PARIS])
    assert (verdict.id, verdict.text) == ("w", text)
    assert (verdict.outcome, verdict.format) == (outcome, format)
    assert (verdict.functions, verdict.content_right) == (functions, content_right)


@pytest.mark.parametrize(
    ("text", "outcome"),
    [
        (written(PARIS), "wrong call"),
        ('[weather(city="Paris")]', "call in another format"),
        ("<functioncall> {", "broken call"),
        ("I have no tool for that.", "declines in prose"),
        ("", "empty"),
        ("!" * 20, "degenerate"),
    ],
)
def test_an_answer_where_none_is_wanted(text: str, outcome: str) -> None:
    verdict = judge(text, id="n", wanted=[], tools=TOOLS)
    assert (verdict.outcome, verdict.functions, verdict.content_right) == (outcome, False, False)


def test_the_taught_format_is_whatever_was_taught() -> None:
    hermes = f"<tool_call>{json.dumps(PARIS.__dict__)}</tool_call>"
    assert judge(hermes, id="", wanted=[PARIS], taught="hermes").outcome == "right call"
    assert judge(written(PARIS), id="", wanted=[PARIS], taught="hermes").outcome == "call in another format"


@pytest.mark.parametrize("wrapped", [False, True])
def test_offered_functions_are_known_from_their_descriptions(wrapped: bool) -> None:
    tools = [{"type": "function", "function": tool} for tool in TOOLS] if wrapped else TOOLS
    assert judge('weather(city="Paris")', id="", wanted=[], tools=tools).format == "python"
    assert judge('weather(city="Paris")', id="", wanted=[], tools=[{"type": "function"}]).format is None

    # BFCL's possible answers at times let an argument be left out that the schema requires.
    truth = [{"weather": {"city": ["Paris", ""]}}]
    for answer, right in (({"city": "Paris"}, True), ({}, False)):
        call = written(Call("weather", answer))
        assert judge(call, id="", wanted=[], ground_truth=truth, tools=tools).content_right is right


# --- with BFCL's possible answers ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "right"),
    [
        ({"city": "Paris", "units": "C"}, True),
        ({"units": "c", "city": "paris-france", "days": 1}, True),
        ({"city": "Rome", "units": "C"}, False),
        ({"city": "Paris"}, False),
        ({"city": "Paris", "units": "C", "days": 1.0}, False),
        ({"city": "Paris", "units": "C", "days": ""}, False),
        ({"city": "Paris", "units": "C", "extra": 1}, False),
    ],
)
def test_a_possible_answer_counts_instead_of_the_wanted_call(arguments: dict[str, Any], right: bool) -> None:
    for wanted in ([], [Call("weather", arguments)]):
        verdict = judge(written(Call("weather", arguments)), id="", wanted=wanted, ground_truth=TRUTH, tools=TOOLS)
        assert (verdict.outcome == "right call", verdict.functions, verdict.content_right) == (right, True, right)


def test_parallel_calls_are_paired_as_they_fit_in_any_order() -> None:
    truth = ({"f": {"a": [1, 2]}}, {"f": {"a": [1]}}, {"g": {"b": [[1.0, 2.0]]}})
    calls = [Call("f", {"a": 1}), Call("f", {"a": 2}), Call("g", {"b": [1.0, 2.0]})]
    for order in permutations(calls):
        assert judge(written(*order), id="", wanted=[], ground_truth=truth).content_right
    assert not judge(written(calls[1], *calls[1:]), id="", wanted=[], ground_truth=truth).content_right
    verdict = judge(written(*calls[1:]), id="", wanted=[], ground_truth=truth)
    assert (verdict.functions, verdict.content_right) == (False, False)


@settings(deadline=None)
@given(st.lists(st.lists(st.booleans(), min_size=4, max_size=4), min_size=4, max_size=4), st.integers(1, 4))
def test_pairing_is_what_trying_every_order_finds(fitting: list[list[bool]], count: int) -> None:
    orders = permutations(range(count))
    expected = any(all(fitting[made][due] for made, due in enumerate(order)) for order in orders)
    assert can_be_paired(count, lambda made, due: fitting[made][due]) is expected


def test_pairing_many_equal_calls_takes_no_time() -> None:
    started = time.perf_counter()
    calls = [Call("f", {"a": 1})] * 60
    assert judge(written(*calls), id="", wanted=calls).content_right
    truth = [{"f": {"a": [1]}}] * 59 + [{"f": {"a": [2]}}]
    assert not judge(written(*calls), id="", wanted=[], ground_truth=truth).content_right
    assert time.perf_counter() - started < 10


# --- with one's own data ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        (1, 1.0, True),
        (1.0, 1, True),
        (1, True, False),
        (0.0, False, False),
        (True, True, True),
        ("a", "a", True),
        ("a", "A", False),
        ("a", " a", False),
        ("1", 1, False),
        (None, None, True),
        (None, "", False),
        (None, False, False),
        ([1, 2], [1, 2], True),
        ([1, 2], [2, 1], False),
        ([1, 2], [1], False),
        ([1], (1,), True),
        ([], {}, False),
        ({"a": [1, 2]}, {"a": [1, 2]}, True),
        ({"a": [1, 2]}, {"a": 1}, False),
        ({"a": {"b": [{"c": 1}]}}, {"a": {"b": [{"c": 1.0}]}}, True),
        ({"a": {"b": [{"c": 1}]}}, {"a": {"b": [{"c": True}]}}, False),
        ({"a": 1, "b": 2}, {"b": 2, "a": 1}, True),
        ({"a": 1, "b": None}, {"a": 1}, False),
        ({"a": 1}, {"a": 1, "b": None}, False),
        (10**400, 1.5, False),
    ],
)
def test_plain_values_are_equal_by_value(one: Any, other: Any, same: bool) -> None:
    assert same_value(one, other) is same
    verdict = judge(written(Call("f", {"x": one})), id="", wanted=[Call("f", {"x": other})])
    assert verdict.content_right is same


def test_values_may_nest_deeper_than_python_compares() -> None:
    deep: list[Any] = []
    same: list[Any] = []
    other: list[Any] = [1]
    for _ in range(100_000):
        deep, same, other = [deep], [same], [other]
    assert same_value(deep, same)
    assert not same_value(deep, other)


def test_arguments_belong_to_their_call() -> None:
    wanted = [Call("f", {"a": 1}), Call("g", {"a": 2})]
    verdict = judge(written(Call("f", {"a": 2}), Call("g", {"a": 1})), id="", wanted=wanted)
    assert (verdict.functions, verdict.content_right) == (True, False)


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=5,
)
some_calls = st.lists(
    st.builds(Call, st.sampled_from("fg"), st.dictionaries(st.sampled_from("abc"), values, max_size=2)), max_size=4
)


@settings(deadline=None)
@given(some_calls, st.randoms())
def test_an_answer_that_equals_its_target_is_right(calls: Sequence[Call], random: Any) -> None:
    order = random.sample(calls, len(calls))
    verdict = judge(written(*order), id="", wanted=calls)
    assert verdict.outcome == ("right call" if calls else "empty")


@settings(deadline=None)
@given(some_calls, some_calls)
def test_an_answer_that_does_not_is_wrong(calls: Sequence[Call], others: Sequence[Call]) -> None:
    def counted(made: Sequence[Call]) -> list[str]:
        return sorted(json.dumps([call.name, call.arguments], sort_keys=True) for call in made)

    verdict = judge(written(*others), id="", wanted=calls)
    # JSON text tells 1 from 1.0, so that equal text is enough but not needed.
    if others and counted(calls) == counted(others):
        assert verdict.content_right
    if sorted(call.name for call in calls) != sorted(call.name for call in others):
        assert not verdict.functions
        assert not verdict.content_right
