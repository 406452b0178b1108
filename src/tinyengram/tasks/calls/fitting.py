"""Whether a call's arguments fit the schema of its tool, and if not, where and why in words."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any

from tinyengram.errors import nearest
from tinyengram.tasks.calls.judging import same_value
from tinyengram.tasks.conversations import Call

_SHOWN = 60


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


_TYPES: Mapping[str, Callable[[Any], bool]] = MappingProxyType(
    {
        "string": lambda value: isinstance(value, str),
        "integer": lambda value: _is_number(value) and (isinstance(value, int) or value.is_integer()),
        "number": _is_number,
        "boolean": lambda value: isinstance(value, bool),
        "array": lambda value: isinstance(value, list),
        "object": lambda value: isinstance(value, dict),
        "null": lambda value: value is None,
    }
)


def misfit(call: Call, tools: Sequence[Mapping[str, Any]]) -> str | None:
    """The first thing about a call that its tool does not take; None where it fits.

    Read of the schema are types, ``required``, ``properties``, ``items``, ``enum``, ``const``, ``anyOf`` and ``oneOf``
    (either as "one of them at least"). An argument that the tool does not know is a misfit unless
    ``additionalProperties`` lets it in: JSON Schema would, but no function takes one.

    Args:
        call: Name and arguments.
        tools: Function descriptions as conversations hold them.

    Example:
        >>> weather = {"name": "weather", "parameters": {"properties": {"city": {"type": "string"}}}}
        >>> misfit(Call("weather", {"city": 3}), [weather])
        'city is 3, which is no string'
    """
    described = {tool["name"]: tool for tool in tools}
    if call.name not in described:
        return f"there is no tool {call.name!r}.{nearest(call.name, described)}".rstrip(".")
    return next(_misfits(call.arguments, described[call.name].get("parameters") or {}, ""), None)


def _misfits(value: Any, schema: Any, where: str) -> Iterator[str]:
    """Everything about a value that its schema does not take, in order."""
    if not isinstance(schema, dict) or (value is None and schema.get("nullable") is True):
        return
    named = f"{where} is {_shown(value)}"
    wanted = schema.get("type")
    allowed = wanted if isinstance(wanted, list) else [wanted]
    kinds = [kind for kind in allowed if isinstance(kind, str) and kind in _TYPES]
    if kinds and not any(_TYPES[kind](value) for kind in kinds):
        yield f"{named}, which is no {' or '.join(kinds)}"
        return
    choices = schema.get("enum", [schema["const"]] if "const" in schema else None)
    if isinstance(choices, list) and not any(same_value(value, choice) for choice in choices):
        yield f"{named}, which is none of {_shown(choices)}"
    for key in ("anyOf", "oneOf"):
        ways = schema.get(key)
        if isinstance(ways, list) and all(any(_misfits(value, way, where)) for way in ways):
            yield f"{named}, which fits none of the ways that it may be given"
    if isinstance(value, dict):
        yield from _misfits_of_object(value, schema, where)
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from _misfits(item, schema.get("items"), f"{where}[{index}]")


def _misfits_of_object(value: Mapping[str, Any], schema: Mapping[str, Any], where: str) -> Iterator[str]:
    before = f"{where}." if where else ""
    properties, required = schema.get("properties"), schema.get("required")
    for name in required if isinstance(required, list) else ():
        if name not in value:
            yield f"{before}{name} is missing"
    # An object without any properties says nothing of what is in it, the arguments themselves aside.
    if not isinstance(properties, dict) or (where and not properties):
        return
    for name, part in value.items():
        if name in properties:
            yield from _misfits(part, properties[name], f"{before}{name}")
        elif schema.get("additionalProperties") in (None, False) and not schema.get("patternProperties"):
            yield f"{before}{name} is unknown.{nearest(name, properties)}".rstrip(".")


def _shown(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"
