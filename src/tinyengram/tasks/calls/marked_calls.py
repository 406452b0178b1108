"""Calls behind a marker that nothing but a call has: one reader for each format.

Each reads from the first marker on, and says where its calls stand, or None where one of them cannot be read. It stops
at the first that cannot, so that a million markers cost no more than one.
"""

from __future__ import annotations

import json
import re
from typing import Any

from tinyengram.tasks.calls.json_calls import Found, describes, read_call
from tinyengram.tasks.calls.python_calls import whole_python
from tinyengram.tasks.calls.values import STRING, behind, end_of_json, read_json, read_literal
from tinyengram.tasks.conversations import Call

FUNCTIONCALL = "<functioncall>"
TOOL_CALL = "<tool_call>"
PYTHON_TAG = "<|python_tag|>"
TOOL_CALLS = "[TOOL_CALLS]"

_TOOL_CALL_END = "</tool_call>"
_SPACE = re.compile(r"\s*")
_BETWEEN = re.compile(r"[\s;,]*")
# Glaive's arguments: JSON within single quotes, which make the whole no JSON.
_GLAIVE = re.compile(rf"\{{\s*\"name\"\s*:\s*({STRING})\s*,\s*\"arguments\"\s*:\s*'\s*(?=\{{)", re.DOTALL)
_GLAIVE_END = re.compile(r"\s*'\s*\}")
_MISTRAL_NAME = re.compile(r"\s*([^\s\[\]{}\"]++)\s*(?:\[CALL_ID\][^\[\]{}]*)?(?:\[ARGS\])?\s*")


def read_functioncall(said: str, at: int) -> Found:
    """``<functioncall> {"name": …, "arguments": …}``, the arguments an object or JSON text in either quotes."""
    calls, spans = [], []
    while at >= 0:
        start = behind(_SPACE, said, at + len(FUNCTIONCALL))
        read = read_json(said, start) or _read_glaive(said, start)
        call = _with_arguments(read[0]) if read else None
        if read is None or call is None:
            return None
        calls.append(call)
        spans.append((at, read[1]))
        at = said.find(FUNCTIONCALL, read[1])
    return calls, spans


def _read_glaive(said: str, start: int) -> tuple[dict[str, Any], int] | None:
    """``{"name": "f", "arguments": '{"a": 1}'}``: only what is no JSON as it stands gets here."""
    head = _GLAIVE.match(said, start)
    end = end_of_json(said, head.end()) if head else None
    tail = _GLAIVE_END.match(said, end) if end else None
    if head is None or tail is None:
        return None
    # Within single quotes an apostrophe may be escaped; in JSON it may not.
    arguments = re.sub(
        r"\\(.)", lambda escape: "'" if escape[1] == "'" else escape[0], said[head.end() : end], flags=re.DOTALL
    )
    try:
        return {"name": json.loads(head[1]), "arguments": arguments}, tail.end()
    except ValueError:
        return None


def read_hermes(said: str, at: int) -> Found:
    """``<tool_call>{"name": …, "arguments": …}</tool_call>``; at the end of an answer the last tag may be missing.

    SmolLM2 is told to write one array of such objects between the tags, empty where it calls nothing.
    """
    calls: list[Call] = []
    spans = []
    while at >= 0:
        start = behind(_SPACE, said, at + len(TOOL_CALL))
        value, end = read_json(said, start) or (None, start)
        closed = behind(_SPACE, said, end)
        if value is None or not (said.startswith(_TOOL_CALL_END, closed) or closed == len(said)):
            # The Nous models also write Python's quotes; only the tag tells where such a value ends.
            closed = said.find(_TOOL_CALL_END, start)
            closed = closed if closed >= 0 else len(said)
            try:
                value = read_literal(said, start, closed)
            except ValueError:
                return None
        made = _all_with_arguments(value if isinstance(value, list) else [value])
        if made is None:
            return None
        stop = min(closed + len(_TOOL_CALL_END), len(said))
        calls += made
        spans.append((at, stop))
        at = said.find(TOOL_CALL, stop)
    return calls, spans


def read_llama(said: str, at: int) -> Found:
    """``<|python_tag|>{"name": …, "parameters": …}``, several with ``;`` between."""
    start = end = behind(_SPACE, said, at + len(PYTHON_TAG))
    calls: list[Call] = []
    while said.startswith("{", start):
        read = read_json(said, start)
        call = read_call(read[0]) if read and not describes(read[0]) else None
        if read is None or call is None:
            return None
        calls.append(call)
        end = read[1]
        start = behind(_BETWEEN, said, end)
    if calls:
        return calls, [(at, end)]
    # Llama's own tools are called as code: <|python_tag|>brave_search.call(query="…").
    code = whole_python(said[start:], None)
    return (code, [(at, len(said))]) if code else None


def read_mistral(said: str, at: int) -> Found:
    """``[TOOL_CALLS] [{"name": …, "arguments": …}]``, or since v11 ``[TOOL_CALLS]name[ARGS]{…}`` for each call."""
    calls: list[Call] = []
    spans = []
    while at >= 0:
        start = behind(_SPACE, said, at + len(TOOL_CALLS))
        name = None if said.startswith("[", start) else _MISTRAL_NAME.match(said, start)
        read = read_json(said, name.end() if name else start)
        if read is None:
            return None
        made = _all_with_arguments([{"name": name[1], "arguments": read[0]}] if name else read[0])
        if made is None:
            return None
        calls += made
        spans.append((at, read[1]))
        at = said.find(TOOL_CALLS, read[1])
    return calls, spans


def _with_arguments(value: Any) -> Call | None:
    """A call whose arguments are called that; only Llama says ``parameters``."""
    return read_call(value) if isinstance(value, dict) and "arguments" in value else None


def _all_with_arguments(values: Any) -> list[Call] | None:
    """The calls of an array, or None if it is none or holds anything else."""
    if not isinstance(values, list):
        return None
    calls = [call for call in map(_with_arguments, values) if call is not None]
    return calls if len(calls) == len(values) else None
