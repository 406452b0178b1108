"""Values inside a row, checked: what is no JSON, no text or no object is named and refused, never trained as it is."""

from __future__ import annotations

import ast
import json
import math
from collections.abc import Iterable, Mapping
from typing import Any

_SHOWN = 80
_BEFORE_FAULT = 20  # characters shown before the place where text is no JSON
_DEEPEST = 64  # levels of nesting; writing a value again takes a level of recursion for each
_NAMES = {"true": True, "false": False, "null": None}


class MalformedError(Exception):
    """A row that does not have the shape of its format; the message names the value and the remedy."""


class LeftOutError(Exception):
    """A well-formed row that holds nothing to learn; the message is the reason."""


def shown(value: Any) -> str:
    """A value as JSON, shortened, for a message."""
    try:
        text = json.dumps(value, ensure_ascii=False, default=str)
    except (ValueError, RecursionError):
        text = "a value nested too deeply"
    text = text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"
    return text.encode(errors="backslashreplace").decode()


def names(keys: Iterable[Any]) -> str:
    """Keys, for a message."""
    listed = ", ".join(f"'{key}'" for key in keys)
    return shown(listed)[1:-1] if listed else "none"


def text_of(value: Any, what: str) -> str:
    """Text that can be written as UTF-8.

    Raises:
        MalformedError: It is something else, or holds half a surrogate pair.
    """
    if not isinstance(value, str):
        raise MalformedError(f"{what} must be text, not {shown(value)}")
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError as error:
            half = f"\\u{ord(value[error.start]):04x}"
            raise MalformedError(
                f"{what} holds {half}, half a character; it was cut or wrongly decoded: mend that text"
            ) from error
    return value


def field(values: Mapping[str, Any], key: str, default: str | None = None) -> str:
    """The text under ``key``; ``default`` where it is absent or null.

    Raises:
        MalformedError: It is something else, or absent without a default.
    """
    value = values.get(key)
    if value is None:
        if default is not None:
            return default
        raise MalformedError(f"{key!r} is missing or null (the keys are {names(values)})")
    return text_of(value, repr(key))


def json_text(text: str, what: str) -> Any:
    """The value that JSON text writes.

    Raises:
        MalformedError: It is not JSON.
    """
    try:
        return json.loads(text)
    except RecursionError as error:
        raise MalformedError(f"{what}: nested too deeply: {shown(text)}") from error
    except json.JSONDecodeError as error:
        near = shown(text[max(0, error.pos - _BEFORE_FAULT) :])
        raise MalformedError(f"{what}: not valid JSON, {error.msg} at character {error.pos + 1}, in {near}") from error
    except ValueError as error:  # an integer of thousands of digits
        raise MalformedError(f"{what}: not valid JSON, {str(error).partition(';')[0]}: {shown(text)}") from error


def json_or_value(value: Any, what: str) -> Any:
    """Formats write lists and objects as such or as JSON text; either way the value."""
    return json_text(value, what) if isinstance(value, str) and value.strip() else value


def json_or_python(text: str, what: str) -> Any:
    """The value that JSON or, failing that, a Python literal writes: single quotes, ``True``, ``None``.

    Raises:
        MalformedError: It is neither.
    """
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return python_literal(text, what)


def python_literal(text: str, what: str) -> Any:
    """The value of a Python literal in which ``true``, ``false`` and ``null`` may stand too; nothing is evaluated.

    Raises:
        MalformedError: It is something else, a name or an operation for example.
    """
    try:
        return _value(ast.parse(text.strip(), mode="eval").body)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise MalformedError(f"{what} is neither JSON nor a Python literal: {shown(text)}") from error


def _value(node: ast.AST) -> Any:
    match node:
        case ast.Constant(value=str() | int() | float() | None as value):
            return value
        case ast.Name(id=name) if name in _NAMES:
            return _NAMES[name]
        case ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=int() | float() as value)):
            return -value
        case ast.List(elts=parts) | ast.Tuple(elts=parts):
            return [_value(part) for part in parts]
        case ast.Dict(keys=keys, values=values):
            return {_value(key): _value(part) for key, part in zip(keys, values, strict=True) if key is not None}
    raise ValueError(f"{type(node).__name__} is no literal")


def checked(value: Any, what: str, level: int = 0) -> Any:
    """The value itself, once it is known that JSON can write it.

    Raises:
        MalformedError: It holds a date, bytes, NaN, a key that is not text, half a character, or too many levels.
    """
    if value is None or isinstance(value, bool | int):
        return value
    if isinstance(value, str):
        return text_of(value, f"text in {what}")
    if isinstance(value, float):
        if math.isfinite(value):
            return value
        raise MalformedError(f"{what} holds {value}, which JSON does not know; write a number, null or text")
    if level == _DEEPEST:
        raise MalformedError(f"{what} is nested more than {_DEEPEST} levels deep")
    if isinstance(value, list):
        return [checked(part, what, level + 1) for part in value]
    if isinstance(value, dict):
        return {_key(key, what): checked(part, what, level + 1) for key, part in value.items()}
    raise MalformedError(f"{what} holds a {type(value).__name__}, which JSON does not know: {shown(value)}")


def _key(key: Any, what: str) -> str:
    if isinstance(key, str):
        return text_of(key, f"a key of {what}")
    raise MalformedError(f"{what} has the key {shown(key)}, which must be text")


def without_keys(values: Mapping[str, Any], keys: tuple[str, ...], remedy: str) -> None:
    """Refuse a row or message that says something which its reader would pass over.

    Raises:
        MalformedError: One of ``keys`` holds something.
    """
    for key in keys:
        if values.get(key):
            raise MalformedError(f"{key!r} is not read: {shown(values[key])}; {remedy}")
