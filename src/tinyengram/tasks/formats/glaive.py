"""``glaive``: whole conversations of Glaive's function calling data.

``system`` lists functions as JSON objects, ``chat`` is one text: ``USER:``, ``ASSISTANT:`` and ``FUNCTION RESPONSE:``
begin a turn where they begin a line, ``<|endoftext|>`` ends the assistant's, and a call is written as
``<functioncall> {"name": "f", "arguments": '{"a": 1}'}``, JSON text in single quotes in something like JSON. The system
text is kept without ``SYSTEM:`` and the functions.

Source: https://huggingface.co/datasets/glaiveai/glaive-function-calling-v2
"""

from __future__ import annotations

import json
import re
from typing import Any

from tinyengram.sources import Row
from tinyengram.tasks.conversations import Call, Conversation
from tinyengram.tasks.formats.builder import ConversationBuilder
from tinyengram.tasks.formats.tools import offered_tools, read_call
from tinyengram.tasks.formats.values import LeftOutError, MalformedError, field, json_text, shown

_MARKER = re.compile(r"(?:\A|\n)[ \t]*(USER|ASSISTANT|FUNCTION RESPONSE):")
_CALL = "<functioncall>"
_END = "<|endoftext|>"
_QUOTED = re.compile(r"""\{\s*"name":\s*("(?:[^"\\]|\\.)*")\s*,\s*"arguments":\s*'(.*)'\s*\}""", re.DOTALL)


def read(row: Row) -> Conversation:
    """The conversation in a row.

    Raises:
        MalformedError: The row has another shape.
        LeftOutError: Its chat is empty.
    """
    system, tools = _system(field(row.values, "system"))
    text = field(row.values, "chat")
    if not text.strip():
        raise LeftOutError("'chat' is empty")
    before, *parts = _MARKER.split(text)
    if before.strip() or not parts:
        raise MalformedError(f"'chat' must begin with USER: or ASSISTANT:, not {shown(text)}")
    chat = ConversationBuilder(row.location, offered_tools(tools, "the functions of 'system'"))
    chat.system(system, "'system'")
    for number, (marker, part) in enumerate(zip(parts[::2], parts[1::2], strict=True), start=1):
        what = f"turn {number} of 'chat'"
        said = part.strip().removesuffix(_END).strip()
        if _END in said:
            raise MalformedError(f"{what} has {_END} before its end; begin what follows it with USER: or ASSISTANT:")
        if marker == "USER":
            chat.user(said, what)
        elif marker == "ASSISTANT":
            words, *written = said.split(_CALL)
            if "<tool_code>" in said:
                raise MalformedError(f"{what} calls by <tool_code>, which is not read; write {_CALL} with JSON")
            chat.assistant(words.strip(), [_call(call, what) for call in written], what=what)
        else:
            chat.results(said, what, alone=parts[2 * number : 2 * number + 1] != [marker])
    return chat.conversation()


def _system(text: str) -> tuple[str, list[Any]]:
    """What the system says, and the functions that follow it, one JSON object after another."""
    text = text.strip().removeprefix("SYSTEM:").strip()
    decoder, tools = json.JSONDecoder(), []
    begins = re.search(r"^\s*\{", text, re.MULTILINE)
    at = end = begins.end() - 1 if begins else len(text)
    while at < len(text):
        try:
            tool, at = decoder.raw_decode(text, at)
        except json.JSONDecodeError as error:
            near = shown(text[max(at, error.pos - 20) :])
            raise MalformedError(f"the functions of 'system': not valid JSON, {error.msg}, in {near}") from error
        except (ValueError, RecursionError) as error:
            raise MalformedError(f"the functions of 'system' cannot be read as JSON: {shown(text[at:])}") from error
        tools.append(tool)
        at = re.compile(r"[\s,]*").match(text, at).end()  # type: ignore[union-attr]
    return text[:end].strip(), tools


def _call(text: str, what: str) -> Call:
    text, name = text.strip(), f"the call in {what}"
    try:
        return read_call(json.loads(text), name)
    except (ValueError, RecursionError):
        quoted = _QUOTED.fullmatch(text)
    if not quoted:
        raise MalformedError(f'{name} must look like {_CALL} {{"name": …, "arguments": \'{{…}}\'}}, not {shown(text)}')
    arguments = quoted[2]
    try:
        json.loads(arguments)
    except (ValueError, RecursionError):
        arguments = arguments.replace("\\'", "'")  # an apostrophe that was escaped for the quotes around it
    return read_call({"name": json_text(quoted[1], f"the name in {name}"), "arguments": arguments}, name)
