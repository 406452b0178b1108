"""The same chat gives the same conversation from every format, and no odd value gets past any reader."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests.tasks.formats.chats import EVERY, TOOLS, TURNS, hermes, openai, read, sharegpt, toolace
from tinyengram.sources import Row
from tinyengram.tasks.formats import READERS, LeftOutError, MalformedError, formats_of

CHATS = {
    "openai": ("openai", openai()),
    "transformers": ("openai", openai(as_objects=True)),
    "sharegpt": ("sharegpt", sharegpt()),
    "hermes": ("hermes", hermes()),
    "hermes in Python": ("hermes", hermes(repr)),
    "toolace": ("toolace", toolace()),
}


@pytest.mark.parametrize("name", CHATS)
def test_every_format_gives_the_same_turns_calls_and_tools(name: str) -> None:
    conversation = read(*CHATS[name])
    assert conversation.turns == TURNS
    assert conversation.tools == tuple(TOOLS)
    assert conversation.id == "rows.jsonl:1"
    assert conversation.learnt == (2, 4, 6, 9)


@pytest.mark.parametrize("name", ["openai", "transformers", "sharegpt"])
def test_lists_may_be_json_text(name: str) -> None:
    format, values = CHATS[name]
    key = "messages" if "messages" in values else "conversations"
    text = {**values, key: json.dumps(values[key]), "tools": json.dumps(TOOLS)}
    assert read(format, text).turns == TURNS


@pytest.mark.parametrize("name", CHATS)
def test_a_turn_of_weight_0_is_not_learnt(name: str) -> None:
    format, values = CHATS[name]
    (key,) = {"messages", "conversations"} & values.keys()
    for learnt, index in (((4, 6, 9), first_call(values[key])), ((2, 4, 6), len(values[key]) - 1)):
        weighed = [{**turn, "weight": 0} if place == index else turn for place, turn in enumerate(values[key])]
        assert read(format, {**values, key: weighed}).learnt == learnt
    with pytest.raises(MalformedError, match=r"\.weight must be 0"):
        read(format, {**values, key: [{**turn, "weight": 2} for turn in values[key]]})


def first_call(turns: list[dict]) -> int:
    def calls(turn: dict) -> bool:
        written = ("function_call", "<tool_call>", "[weather(")
        return bool(turn.get("tool_calls")) or (
            turn.get("from") != "system" and any(mark in part for mark in written for part in turn.values())
        )

    return next(index for index, turn in enumerate(turns) if calls(turn))


def test_a_list_of_objects_may_be_stored_as_an_object_of_lists() -> None:
    values = sharegpt()
    columns = {key: [turn[key] for turn in values["conversations"]] for key in ("from", "value")}
    assert read("sharegpt", {**values, "conversations": columns}).turns == TURNS


# --- odd values ----------------------------------------------------------------------------------------------------

DEEP: list = []
for _ in range(90):
    DEEP = [DEEP]
ODD = (
    *(None, 0, 1.5, True, "", [], {}, "x", ["x"], [None], {"a": 1}, b"x", {1: 2}, float("nan"), 10**30, DEEP),
    *("{", "[1]", "null", "[f(a=1)]", "\ud800", "[" * 3000, "<tool_call>", "<tool_call>{}</tool_call>"),
    *("<tools>x</tools>", {"name": 5}, {"name": "f", "arguments": []}, {"role": "x"}, {"type": "image_url"}),
)


def places(value: Any, path: tuple = ()) -> Iterator[tuple]:
    if path:
        yield path
    for key in value if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ():
        yield from places(value[key], (*path, key))


def changed(values: dict, path: tuple, odd: Any) -> dict:
    values = copy.deepcopy(values)
    inner: Any = values
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = odd
    return values


def opened(values: dict) -> dict:
    """JSON text replaced by what it says, so that the places inside it are reached."""
    names = ("tools", "answers")
    return {key: json.loads(part) if key in names and isinstance(part, str) else part for key, part in values.items()}


@pytest.mark.parametrize("format", EVERY)
def test_a_row_with_any_odd_value_is_read_as_json_can_write_it_or_refused_in_one_line(format: str) -> None:
    values, refused = opened(EVERY[format]), []
    for path in places(values):
        for odd in ODD:
            row = Row("rows.jsonl:1", changed(values, path, odd))
            formats_of(row.values)
            try:
                conversation = READERS[format](row)
            except (MalformedError, LeftOutError) as error:
                refused.append(str(error))
                continue
            written = [*conversation.tools, *(call.arguments for turn in conversation.turns for call in turn.calls)]
            json.dumps(written, allow_nan=False, ensure_ascii=False).encode()
            "".join(turn.text for turn in conversation.turns).encode()
            assert all(tool["parameters"]["type"] == "object" for tool in conversation.tools)
    assert len(refused) > 20
    for reason in refused:
        assert "\n" not in reason
        assert len(reason.encode()) < 400
