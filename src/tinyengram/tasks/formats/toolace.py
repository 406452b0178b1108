"""``toolace``: calls as Python expressions and tools inside the system text, as ToolACE writes them.

``system`` holds a JSON list of functions; ``conversations`` of ``user``, ``assistant`` and ``tool``; an assistant turn
calls by ``[f(a=1, b="x"), Get Weather(city="Oslo")]``, names being whatever stands before the bracket. Values are read
as Python literals, never evaluated.

The system text keeps what does not say how calls are written: the list and ToolACE's sentences about its notation are
dropped, since the model's chat template lists the tools and would contradict them.

Source: https://huggingface.co/datasets/Team-ACE/ToolACE
"""

from __future__ import annotations

import json
import re
from typing import Any

from tinyengram.sources import Row
from tinyengram.tasks.conversations import Call, Conversation
from tinyengram.tasks.formats.builder import ConversationBuilder
from tinyengram.tasks.formats.messages import Message, messages_of
from tinyengram.tasks.formats.sharegpt import CALLING, is_only_result
from tinyengram.tasks.formats.tools import offered_tools
from tinyengram.tasks.formats.values import MalformedError, checked, field, python_literal, shown

_NOTATION = re.compile(
    r"[^\n.]*list of functions in JSON format that you can invoke[.:]?"
    r"|(?:If|Should) you decide to (?:invoke|return) [^\n.]*?(?:function\(s\)|function call\(s\))[.,]?"
    r"|(?:you MUST put it|Put it) in the format of \[[^\]]*\]\.?"
    r"|(?:You SHOULD NOT include any|NO) other text[^\n.]*\.?"
    r"|You should only return the function calls? in [^\n.]*\."
)
_QUOTES = ("'", '"')
_PAIRS = {"(": ")", "[": "]", "{": "}"}
# A list of calls: a bracket, a name without brackets or quotes, and the arguments' bracket.
_BEGINS = re.compile(r"\[\s*([^\[\](){}'\"=,\n]+?)\s*\(")


def read(row: Row) -> Conversation:
    """The conversation in a row; where its system text lists no functions, they may stand under ``tools``.

    Raises:
        MalformedError: The row has another shape.
    """
    messages = list(messages_of(row.values))
    system, listed = split_system(field(row.values, "system", ""))
    if messages and messages[0].role == "system" and not listed:
        inside, listed = split_system(messages.pop(0).text)
        system = "\n".join(part for part in (system, inside) if part)
    chat = ConversationBuilder(row.location, offered_tools(listed or row.values.get("tools")))
    chat.system(system, "'system'")
    for index, message in enumerate(messages):
        if message.role == CALLING:
            raise MalformedError(f"{message.what} is a function_call turn, not toolace's; give format: sharegpt")
        match message.speaker:
            case "system":
                chat.system(message.text, message.what)
            case "user":
                chat.user(message.text, message.what)
            case "assistant":
                _add_assistant(chat, message)
            case "tool":
                chat.results(message.text, message.what, alone=is_only_result(messages, index))
    return chat.conversation()


def split_system(text: str) -> tuple[str, list[Any]]:
    """The system text without functions and notation, and the functions that it lists."""
    for begins in re.finditer(r"\[\s*\{", text):
        try:
            listed, end = json.JSONDecoder().raw_decode(text, begins.start())
        except (ValueError, RecursionError):
            continue
        if all(_is_function(part) for part in listed):
            kept = _NOTATION.sub("", text[: begins.start()] + text[end:].removeprefix("."))
            return "\n".join(line.strip() for line in kept.splitlines() if line.strip()), listed
    return text, []


def _is_function(value: Any) -> bool:
    function = value.get("function", value) if isinstance(value, dict) else None
    return isinstance(function, dict) and "name" in function


def _add_assistant(chat: ConversationBuilder, message: Message) -> None:
    """A turn calls where it holds a list of calls of offered functions, or is such a list of any functions."""
    text = message.text
    offered = {tool["name"] for tool in chat.tools}
    for begins in _BEGINS.finditer(text):
        known = begins[1] in offered
        if not known and text[: begins.start()].strip():
            continue
        try:
            calls, end = read_expression(text, begins.start(), f"the calls in {message.what}")
        except MalformedError:
            if known:
                raise
            continue  # "[sic (1)]" is text
        if known or not text[end:].strip():
            beside = (text[: begins.start()].strip(), text[end:].strip())
            if any(again[1] in offered for again in _BEGINS.finditer(beside[1])):
                raise MalformedError(f"{message.what} holds two lists of calls; write one: {shown(text)}")
            chat.assistant("\n".join(part for part in beside if part), calls, what=message.what, learnt=message.learnt)
            return
    chat.assistant(text, what=message.what, learnt=message.learnt)


def read_expression(text: str, at: int, what: str) -> tuple[list[Call], int]:
    """Calls from ``[f(a=1), g()]`` that begins at ``at``, and where it ends.

    Raises:
        MalformedError: It is no such list.
    """
    end = _closing(text, at, what)
    inside = text[at + 1 : end - 1].strip()
    return [_call(part, what) for part in _split(inside, what)] if inside else [], end


def _call(text: str, what: str) -> Call:
    name, bracket, _ = text.partition("(")
    if not bracket or not name.strip() or _closing(text, len(name), what) != len(text):
        raise MalformedError(f'{what} must look like [f(a=1, b="x")], not {shown(text)}')
    arguments: dict[str, Any] = {}
    inside = text[len(name) + 1 : -1]
    for part in _split(inside, what) if inside.strip() else ():
        key, equals, value = part.partition("=")
        key = key.strip()
        if not equals or not key or any(quote in key for quote in _QUOTES):
            raise MalformedError(f"{what}: {shown(part)} needs the name of its argument, as in a=1")
        if key in arguments:
            raise MalformedError(f"{what} gives the argument {shown(key)} of {shown(name.strip())} twice")
        place = f"the argument {shown(key)} in {what}"
        arguments[key] = checked(python_literal(value, place), place)
    return Call(name.strip(), arguments)


def _closing(text: str, at: int, what: str) -> int:
    """Where the bracket at ``at`` is closed, one behind it; brackets in quotes do not count."""
    waiting: list[str] = []
    quote = ""
    place = at
    while place < len(text):
        letter = text[place]
        if quote:
            if letter == "\\":
                place += 1
            elif letter == quote:
                quote = ""
        elif letter in _QUOTES:
            quote = letter
        elif letter in _PAIRS:
            waiting.append(_PAIRS[letter])
        elif waiting and letter == waiting[-1]:
            waiting.pop()
            if not waiting:
                return place + 1
        place += 1
    raise MalformedError(f"{what} have an unclosed {shown(quote or text[at])}: {shown(text[at:])}")


def _split(text: str, what: str) -> list[str]:
    """Parts between commas outside brackets and quotes, stripped; a comma at the end ends the last part."""
    parts, begins, place = [], 0, 0
    while place < len(text):
        letter = text[place]
        if letter in _PAIRS:
            place = _closing(text, place, what)
        elif letter in _QUOTES:
            place = _closing_quote(text, place, what)
        else:
            if letter == ",":
                parts.append(text[begins:place].strip())
                begins = place + 1
            place += 1
    last = text[begins:].strip()
    return [*parts, last] if last else parts


def _closing_quote(text: str, at: int, what: str) -> int:
    ends = re.compile(r"(?:\\.|[^\\])*?" + text[at], re.DOTALL).match(text, at + 1)
    if not ends:
        raise MalformedError(f"{what} have an unclosed quote: {shown(text[at:])}")
    return ends.end()
