"""Values inside generated text: strict JSON and Python's literals, in linear time and without a crash on any text.

Python's own readers recurse, and give up at a depth that depends on who called them. So the end of a value is found
first, by a scan that counts brackets; only what is closed and no deeper than :data:`DEEPEST` is handed on.
"""

from __future__ import annotations

import ast
import json
import keyword
import math
import re
import warnings
from typing import Any, NoReturn

# No call's arguments nest as deep; Python's readers give up between two hundred and a thousand.
DEEPEST = 100
# ast needs some 2 s for 1 MB of short literals. This is some 30,000 tokens, more than an answer has.
LONGEST_PYTHON = 1 << 17

STRING = r'"[^"\\]*+(?:\\.[^"\\]*+)*+"'
# A string that never ends runs to the end of the text, so that no quote is looked at twice.
_JSON_PART = re.compile(r'"[^"\\]*+(?:\\.[^"\\]*+)*+"?|[\[\]{}]', re.DOTALL)
_PYTHON_STRING = (
    r'"""[^"\\]*+(?:(?:\\.|"(?!""))[^"\\]*+)*+(?:""")?'
    r"|'''[^'\\]*+(?:(?:\\.|'(?!''))[^'\\]*+)*+(?:''')?"
    r'|"[^"\\\n]*+(?:\\.[^"\\\n]*+)*+"?'
    r"|'[^'\\\n]*+(?:\\.[^'\\\n]*+)*+'?"
)
_PYTHON_PART = re.compile(rf"{_PYTHON_STRING}|[\[\](){{}}]", re.DOTALL)
# Arguments are called ``from`` or ``class`` too, which no Python function has; under a prefix ast reads them.
_RESERVED = "_reserved_"
_RESERVED_NAME = re.compile(rf"{_PYTHON_STRING}|(?P<name>\b(?:{'|'.join(keyword.kwlist)})\b)(?=\s*=(?!=))", re.DOTALL)
_JSON_WORDS = {"true": True, "false": False, "null": None}


def behind(pattern: re.Pattern[str], text: str, at: int) -> int:
    """Where a pattern that matches at ``at`` ends; ``at`` itself if it does not."""
    match = pattern.match(text, at)
    return match.end() if match else at


def end_of_json(text: str, start: int) -> int | None:
    """Where the bracket that opens at ``start`` closes, strings skipped; None if never, or if it nests too deep."""
    return _end(text, start, _JSON_PART)


def end_of_python(text: str, start: int) -> int | None:
    """As :func:`end_of_json`, by Python's rules: strings in either quote, round brackets too."""
    return _end(text, start, _PYTHON_PART)


def _end(text: str, start: int, parts: re.Pattern[str]) -> int | None:
    depth = 0
    for part in parts.finditer(text, start):
        if part[0] in "[{(":
            depth += 1
            if depth > DEEPEST:
                return None
        elif part[0] in "]})":
            depth -= 1
            if depth <= 0:
                return part.end()
    return None


def read_json(text: str, start: int = 0) -> tuple[Any, int] | None:
    """The JSON object or array at ``start`` and where it ends, or None if there is none.

    NaN, infinities and numbers that no float holds are no JSON. Of a key that is given twice the last value counts, as
    for every engine that reads calls with Python's ``json``.
    """
    if text[start : start + 1] not in ("{", "["):
        return None
    end = end_of_json(text, start)
    if end is None:
        return None
    try:
        return _STRICT.decode(text[start:end]), end
    except ValueError:
        return None


def read_arguments(value: Any) -> dict[str, Any] | None:
    """Arguments as an object, or as OpenAI writes them, JSON text of one; None for anything else."""
    if isinstance(value, str):
        written = value.strip()
        read = read_json(written)
        value = read[0] if read is not None and read[1] == len(written) else None
    return value if isinstance(value, dict) else None


def read_literal(text: str, start: int, end: int) -> Any:
    """The Python literal in brackets that is all of ``text[start:end]``, as a JSON value.

    Raises:
        ValueError: It is none, it nests too deep, or the text is longer than :data:`LONGEST_PYTHON`.
    """
    closed = end_of_python(text, start)
    if closed is None or closed > end or text[closed:end].strip():
        raise ValueError("not one value in brackets")
    return _plain(_expression(text, text[start:end]))


def read_keywords(text: str, start: int, end: int) -> dict[str, Any] | None:
    """The arguments in the brackets ``text[start:end]`` of a Python call; None unless each is a named literal.

    An argument without a name belongs to no parameter; one that is given twice is an error in Python.
    """
    written = _RESERVED_NAME.sub(lambda part: (_RESERVED if part["name"] else "") + part[0], text[start:end])
    try:
        call = _expression(text, "f" + written)
        if not isinstance(call, ast.Call) or call.args:
            return None
        names = [given.arg.removeprefix(_RESERVED) if given.arg else None for given in call.keywords]
        if None in names or len(set(names)) < len(names):
            return None
        return {str(name): _plain(given.value) for name, given in zip(names, call.keywords, strict=True)}
    except ValueError:
        return None


def _expression(whole: str, part: str) -> ast.expr:
    if len(whole) > LONGEST_PYTHON:
        raise ValueError("too long")
    try:
        with warnings.catch_warnings():
            # A string such as "\d" only warns, and where warnings are errors it would not be read.
            warnings.simplefilter("ignore")
            return ast.parse(part.strip(), mode="eval").body
    # Deep chains without brackets (``- - - 1``, ``a.b.c``) end in the last two.
    except (SyntaxError, RecursionError, MemoryError) as error:
        raise ValueError("no Python expression") from error


def _plain(node: ast.expr) -> Any:
    """A literal as a JSON value: tuples as arrays, and JSON's ``true``, ``false`` and ``null``, which models mix in."""
    match node:
        case ast.Constant(value=None | bool() | str() | int() as value):
            return value
        case ast.Constant(value=float() as value) if math.isfinite(value):
            return value
        case ast.UnaryOp(op=ast.USub() | ast.UAdd() as sign, operand=ast.Constant(value=int() | float() as value)):
            if not isinstance(value, bool) and math.isfinite(value):
                return -value if isinstance(sign, ast.USub) else value
        case ast.Name(id="true" | "false" | "null" as word):
            return _JSON_WORDS[word]
        case ast.List(elts=parts) | ast.Tuple(elts=parts):
            return [_plain(part) for part in parts]
        case ast.Dict(keys=keys, values=values):
            names = [key.value if isinstance(key, ast.Constant) else None for key in keys]
            if all(isinstance(name, str) for name in names):
                return {name: _plain(value) for name, value in zip(names, values, strict=True)}
    raise ValueError(f"{type(node).__name__} is no literal that JSON has")


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no JSON")


def _finite(written: str) -> float:
    number = float(written)
    if math.isinf(number):
        raise ValueError(f"{written} is too large for a float")
    return number


_STRICT = json.JSONDecoder(parse_constant=_refuse, parse_float=_finite)
