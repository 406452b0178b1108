"""Calls that are written as Python: ``[f(a=1), g(b="x")]``, ``f(a=1)``. Read with ``ast``, never evaluated."""

from __future__ import annotations

import re
from collections.abc import Collection

from tinyengram.tasks.calls.json_calls import Found
from tinyengram.tasks.calls.values import behind, end_of_python, read_keywords
from tinyengram.tasks.conversations import Call

_BETWEEN = re.compile(r"[\s;,]*")
_COMMA = re.compile(r"\s*,?\s*")
_LIST_START = re.compile(r"\[\s*")
# A name up to its bracket. ToolACE's tools have names with blanks, so only what ends every name is left out.
_NAME = re.compile(r"([^()\[\]{}\"'`,;:=#\n]++)\(")
_IDENTIFIER = re.compile(r"[^\W\d]\w*(?:\.[^\W\d]\w*)*")
# A list that begins with such a call is meant as calls even if its function is not offered, and even if it is cut off.
_CALL_HEAD = re.compile(r"(?=\[\s*[^\W\d]\w*+(?:\.[^\W\d]\w*+)*+\(\s*(?:\)|[^\W\d]\w*+\s*=(?!=)))")
_LINE_END = re.compile(r"[ \t]*(?:[;,][ \t]*)?(?:\n|\r|\Z)")


def whole_python(body: str, offered: Collection[str] | None) -> list[Call] | None:
    """The calls of a text that is nothing but calls, or None.

    Args:
        body: The text.
        offered: Names that may stand without brackets around the calls; None: any.
    """
    calls: list[Call] = []
    at = 0
    while at < len(body):
        if not body.startswith("[", at):
            name = _NAME.match(body, at)
            if name is None or (offered is not None and name[1].strip() not in offered):
                return None
        made, end = _calls_at(body, at, offered)
        if end is None or not made:
            return None
        calls += made
        at = behind(_BETWEEN, body, end)
    return calls


def inner_python(said: str, offered: Collection[str]) -> Found:
    """Calls of offered functions that have lines to themselves, with where they stand; None if one cannot be read.

    Both lists are empty where nothing is an attempt at a call.
    """
    calls: list[Call] = []
    spans: list[tuple[int, int]] = []
    names = "|".join(re.escape(name) for name in sorted(filter(None, offered), key=len, reverse=True))
    start = re.compile(rf"^[ \t]*(?=(?:\[\s*)?(?:{names})\()", re.MULTILINE) if names else None
    head = _CALL_HEAD.match(said) or (start.search(said) if start else None)
    while head is not None:
        at = head.end()
        made, end = _calls_at(said, at, offered)
        if end is None:
            return None
        if _LINE_END.match(said, end):
            if made is None:
                return None
            calls += made
            spans.append((at, end))
        head = start.search(said, end) if start else None
    return calls, spans


def _calls_at(text: str, at: int, offered: Collection[str] | None) -> tuple[list[Call] | None, int | None]:
    """The list of calls or the one call at ``at``, None if it cannot be read; and where it ends, None if nowhere."""
    if not text.startswith("[", at):
        return _call_at(text, at, offered)
    calls: list[Call] = []
    end = end_of_python(text, at)
    position = behind(_LIST_START, text, at)
    while end is not None and position < end - 1:
        made, stop = _call_at(text, position, offered)
        if made is None or stop is None:
            return None, end
        calls += made
        position = behind(_COMMA, text, stop)
        if position < end - 1 and "," not in text[stop:position]:
            return None, end
    return calls or None, end


def _call_at(text: str, at: int, offered: Collection[str] | None) -> tuple[list[Call] | None, int | None]:
    head = _NAME.match(text, at)
    if head is None:
        return None, None
    end = end_of_python(text, head.end() - 1)
    name = head[1].strip()
    if end is None or not (_IDENTIFIER.fullmatch(name) or name in (offered or ())):
        return None, end
    arguments = read_keywords(text, head.end() - 1, end)
    return (None if arguments is None else [Call(name, arguments)]), end
