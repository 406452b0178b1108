"""Arguments that a tool does not take are named with the place and the value."""

from __future__ import annotations

from typing import Any

import pytest

from tinyengram.tasks.calls.fitting import misfit
from tinyengram.tasks.conversations import Call

PARAMETERS = {
    "type": "object",
    "properties": {
        "city": {"type": "string"},
        "days": {"type": "integer"},
        "unit": {"type": "string", "enum": ["C", "F"]},
        "share": {"type": ["number", "null"]},
        "at": {"type": "object", "properties": {"hours": {"type": "array", "items": {"type": "integer"}}}},
        "free": {"type": "object", "properties": {}},
        "way": {"anyOf": [{"type": "integer"}, {"type": "string", "enum": ["fast"]}]},
        "maybe": {"type": "boolean", "nullable": True},
        "odd": {"type": "timestamp"},
    },
    "required": ["city"],
}
TOOL = {"name": "weather", "description": "", "parameters": PARAMETERS}


@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"days": 3},
        {"days": 3.0},
        {"unit": "C", "share": None},
        {"share": 1},
        {"at": {"hours": [1, 2]}},
        {"free": {"anything": 1}},
        {"way": "fast"},
        {"way": 3},
        {"maybe": None},
        {"odd": "now"},
    ],
)
def test_what_fits(arguments: dict[str, Any]) -> None:
    assert misfit(Call("weather", {"city": "Oslo", **arguments}), [TOOL]) is None


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"days": 3.5}, "days is 3.5, which is no integer"),
        ({"days": True}, "days is true, which is no integer"),
        ({"days": "3"}, 'days is "3", which is no integer'),
        ({"unit": "K"}, 'unit is "K", which is none of ["C", "F"]'),
        ({"share": "x"}, 'share is "x", which is no number or null'),
        ({"at": {"hours": [1, "two"]}}, 'at.hours[1] is "two", which is no integer'),
        ({"at": {"hour": 1}}, "at.hour is unknown. Did you mean 'hours'?"),
        ({"way": "slow"}, 'way is "slow", which fits none of the ways that it may be given'),
        ({"town": "Oslo"}, "town is unknown. Choose one of: at, city, days, free, maybe, odd, share, unit, way"),
        ({"city": None}, "city is null, which is no string"),
    ],
)
def test_what_does_not(arguments: dict[str, Any], said: str) -> None:
    assert misfit(Call("weather", {"city": "Oslo", **arguments}), [TOOL]) == said


def test_a_required_argument_and_an_unknown_tool() -> None:
    assert misfit(Call("weather", {}), [TOOL]) == "city is missing"
    assert misfit(Call("wether", {}), [TOOL]) == "there is no tool 'wether'. Did you mean 'weather'?"
    assert misfit(Call("weather", {}), []) == "there is no tool 'weather'"


def test_more_arguments_where_the_schema_lets_them_in() -> None:
    wide = {**TOOL, "parameters": {**PARAMETERS, "additionalProperties": True}}
    assert misfit(Call("weather", {"city": "Oslo", "town": "Oslo"}), [wide]) is None
