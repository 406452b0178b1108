"""Calls that are written as bare JSON, OpenAI's or Llama's: a whole answer of it, or objects amid other text."""

from __future__ import annotations

import json
import re
from collections.abc import Collection
from typing import Any, Literal

from tinyengram.tasks.calls.values import STRING, behind, read_arguments, read_json
from tinyengram.tasks.conversations import Call

JsonFormat = Literal["llama", "json"]
# Calls with where each stands, or None where one of them cannot be read.
Found = tuple[list[Call], list[tuple[int, int]]] | None

_BETWEEN = re.compile(r"[\s;,]*")
# How a call begins in the midst of an answer. An object that goes on as a schema describes a function.
_HEAD = re.compile(
    rf"\{{\s*(?:\"(?:id|type)\"\s*:\s*{STRING}\s*,\s*){{0,2}}\"name\"\s*:\s*({STRING})\s*,\s*"
    r"\"(arguments\"|parameters\"(?!\s*:\s*\{\s*\"type\"\s*:\s*\"(?:object|dict)\"\s*,\s*\"(?:properties|required)\"))"
    r"\s*:",
    re.DOTALL,
)
# What may stand before the first call of an answer that begins with it, and between it and the next: a fence,
# brackets, OpenAI's wrappers.
_OPENING = re.compile(r"(?:```\w*)?(?:[\s\[\]{}:;,]|\"(?:tool_calls|type|function|id|call_\w*)\")*")
_LONGEST_OPENING = 300


def read_call(value: Any) -> Call | None:
    """The call that an object with a name and arguments (or parameters) is; None for anything else."""
    name = value.get("name") if isinstance(value, dict) else None
    if not isinstance(name, str) or not name:
        return None
    arguments = read_arguments(value["arguments"] if "arguments" in value else value.get("parameters"))
    return None if arguments is None else Call(name, arguments)


def describes(value: dict[str, Any]) -> bool:
    """Whether an object describes a function instead of calling it: its parameters are a schema."""
    schema = value.get("parameters")
    if not isinstance(schema, dict) or not isinstance(schema.get("properties"), dict):
        return False
    return schema.get("type") in ("object", "dict")


def whole_json(body: str) -> tuple[JsonFormat, list[Call] | None] | None:
    """The calls of a text that is nothing but JSON, one value or several, each meant as a call; else None.

    The calls are None where one of them cannot be read.
    """
    meant: list[dict[str, Any]] = []
    format: JsonFormat = "llama"
    at = 0
    while at < len(body) or not meant:
        read = read_json(body, at)
        objects = _meant_as_calls(read[0]) if read else None
        if read is None or objects is None:
            return None
        if objects[0] is not read[0] or "parameters" not in objects[0] or "arguments" in objects[0]:
            format = "json"
        meant += objects
        at = behind(_BETWEEN, body, read[1])
    calls = [call for call in map(read_call, meant) if call is not None]
    return format, (calls if len(calls) == len(meant) else None)


def inner_json(said: str, offered: Collection[str]) -> tuple[JsonFormat, Found] | None:
    """Calls as JSON objects amid other text; None if there is no attempt at one.

    An object is an attempt if it has a name and arguments, and either begins the answer, follows another such, or names
    an offered function.
    """
    calls: list[Call] = []
    spans: list[tuple[int, int]] = []
    format: JsonFormat = "llama"
    head = _HEAD.search(said)
    end = 0
    while head is not None:
        at, behind_head = head.span()
        follows = at - end < _LONGEST_OPENING and _OPENING.fullmatch(said, end, at) is not None
        if follows or _text(head[1]) in offered:
            if head[2] == 'arguments"':
                format = "json"
            read = read_json(said, at)
            call = read_call(read[0]) if read else None
            if read is None or call is None:
                return format, None
            calls.append(call)
            behind_head = end = read[1]
            spans.append((at, end))
        head = _HEAD.search(said, behind_head)
    return (format, (calls, spans)) if calls else None


def _meant_as_calls(value: Any) -> list[dict[str, Any]] | None:
    """The objects of a JSON value that are meant as calls, out of OpenAI's wrappers; None if any of them is not."""
    if isinstance(value, dict) and isinstance(value.get("tool_calls"), list):
        value = value["tool_calls"]
    found = []
    for one in value if isinstance(value, list) else [value]:
        if not isinstance(one, dict):
            return None
        # Llama 3 is seen to write {"function": "f", "parameters": …}: meant as a call, yet no engine reads it.
        meant = one["function"] if isinstance(one.get("function"), dict) else one
        if not ("arguments" in meant or "parameters" in meant) or describes(meant):
            return None
        if not isinstance(meant.get("name", meant.get("function")), str):
            return None
        found.append(meant)
    return found or None


def _text(written: str) -> str:
    try:
        return json.loads(written)
    except ValueError:
        return ""
