"""Which format rows are written in, told by several of them and never by a guess."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from tinyengram.sources import Row
from tinyengram.tasks.errors import TaskError
from tinyengram.tasks.formats.messages import KEYS, rows_of
from tinyengram.tasks.formats.sharegpt import CALLING
from tinyengram.tasks.formats.toolace import split_system
from tinyengram.tasks.formats.values import names

# Chats of plain text are read alike by each of these; the first stands for them.
_PLAIN = {"role": ("openai", "hermes", "toolace"), "from": ("sharegpt", "hermes", "toolace")}
_EXPECTED = (
    "openai ('messages' of 'role' and 'content'), sharegpt, hermes or toolace ('conversations' of 'from' and 'value'), "
    "xlam ('query', 'answers', 'tools'), glaive ('system', 'chat'), instruction ('instruction', 'input', 'output')"
)
_EXPRESSION = re.compile(r"\s*\[[^\[\](){}'\"=,\n]+\(.*\)\s*\]\s*", re.DOTALL)


def formats_of(values: Mapping[str, Any]) -> tuple[str, ...]:
    """Formats that a row may be written in, the likeliest first; several only where it fits several.

    A chat whose calls or tools show how they are written fits that format alone, a chat of plain text all that write
    chats so.
    """
    keys = {key for key, value in values.items() if value is not None}
    found: list[str] = []
    if {"system", "chat"} <= keys:
        found.append("glaive")
    if {"query", "answers"} <= keys:
        found.append("xlam")
    if "output" in keys:
        found.append("instruction")
    for key in KEYS:
        if key in keys:
            found += [format for format in _chat_formats(values, _messages(values[key])) if format not in found]
    return tuple(found)


def detect(rows: Sequence[Row], name: str) -> str:
    """The one format that all rows fit which fit any.

    Args:
        rows: The first of a file.
        name: The data's, for messages.

    Raises:
        TaskError: No row fits a format, one fits several, or two fit different ones; ``format`` is the way out.
    """
    fitting = [(row, formats_of(row.values)) for row in rows]
    fitting = [(row, formats) for row, formats in fitting if formats]
    if not fitting:
        raise TaskError(f"{rows[0].location} {_unknown(rows[0].values)}")
    common, first = set(fitting[0][1]), fitting[0]
    for row, formats in fitting:
        # Plain chats of either shape have hermes in common; that they were written differently shows all the same.
        if not common & set(formats) or _shapes_differ(first[1], formats):
            narrow = next((other for other in fitting if not set(other[1]) & set(formats)), first)
            raise TaskError(
                f"{name} mixes formats: {narrow[0].location} is {_or(narrow[1])}, {row.location} is {_or(formats)}. "
                "Split it into a file for each, or give format."
            )
        common &= set(formats)
    if len(common) == 1:
        return common.pop()
    for plain in _PLAIN.values():
        if plain[0] in common:
            common -= set(plain[1:])
    likeliest = [format for format in first[1] if format in common]
    if len(likeliest) > 1:
        raise TaskError(f"{first[0].location} fits {' and '.join(likeliest)}. Give format: the one that is meant.")
    return likeliest[0]


def _shapes_differ(some: Sequence[str], others: Sequence[str]) -> bool:
    plain = [shape[0] for shape in _PLAIN.values()]
    return some[0] != others[0] and some[0] in plain and others[0] in plain


def _or(formats: Sequence[str]) -> str:
    return formats[0] if len(formats) == 1 else f"{', '.join(formats[:-1])} or {formats[-1]}"


def _unknown(values: Mapping[str, Any]) -> str:
    single = {"role", "content"} <= values.keys() or {"from", "value"} <= values.keys()
    hint = ' It looks like one message: list the messages of a chat in one row, {"messages": […]}.' if single else ""
    return f"has the keys {names(values)}; expected {_EXPECTED}.{hint}"


def _messages(value: Any) -> list[dict[str, Any]]:
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            return []
    listed = rows_of(value)
    return [message for message in listed if isinstance(message, dict)] if isinstance(listed, list) else []


def _chat_formats(values: Mapping[str, Any], messages: Sequence[Mapping[str, Any]]) -> tuple[str, ...]:
    shape = "from" if any(message.get("from") for message in messages) else "role"
    marks = [format for format, shows in _MARKS.items() if shows(values, messages)]
    return tuple(marks) or _PLAIN[shape]


def _shows_openai(values: Mapping[str, Any], messages: Sequence[Mapping[str, Any]]) -> bool:
    marks = ("tool_calls", "function_call", "tool_call_id")
    return bool(values.get("functions")) or any(message.get(key) for message in messages for key in marks)


def _shows_sharegpt(values: Mapping[str, Any], messages: Sequence[Mapping[str, Any]]) -> bool:
    return any(_role(message) in (CALLING, "observation") for message in messages)


def _shows_hermes(values: Mapping[str, Any], messages: Sequence[Mapping[str, Any]]) -> bool:
    tags = {"system": "</tools>", "gpt": "</tool_call>", "assistant": "</tool_call>"}
    return any(tags[role] in _text(message) for message in messages if (role := _role(message)) in tags)


def _shows_toolace(values: Mapping[str, Any], messages: Sequence[Mapping[str, Any]]) -> bool:
    systems = [values.get("system"), *(_text(message) for message in messages if _role(message) == "system")]
    if any(split_system(system)[1] for system in systems if isinstance(system, str) and "</tools>" not in system):
        return True
    speaks = ("assistant", "gpt")
    return any(_EXPRESSION.fullmatch(_text(message)) for message in messages if _role(message) in speaks)


_MARKS = {
    "openai": _shows_openai,
    "sharegpt": _shows_sharegpt,
    "hermes": _shows_hermes,
    "toolace": _shows_toolace,
}


def _role(message: Mapping[str, Any]) -> Any:
    role = message.get("role") or message.get("from")
    return role if isinstance(role, str) else None


def _text(message: Mapping[str, Any]) -> str:
    value = message.get("value") if message.get("content") is None else message["content"]
    return value if isinstance(value, str) else ""
