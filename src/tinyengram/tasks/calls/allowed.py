"""What BFCL's possible answers allow (Patil et al. 2025, "The Berkeley Function Calling Leaderboard").

The rules are those of ``bfcl_eval/eval_checker/ast_eval/ast_checker.py`` for Python, so that a share of right calls
means what it does on the leaderboard; ``tests/tasks/calls/test_agreement.py`` holds both side by side. Some are odd:

- ``""`` among the choices lets an argument be left out. It is a value only where a string is due, but an empty array
  passes for it as well, and items of an array are not checked for their types where the array may be left out.
- A whole number will do for a float, but not inside an array whose choices are all floats.
- If the first choice is of another type than the schema's, it counts as code: such values are compared as they are,
  and may be of either type.
- Strings are compared without case and without some punctuation: as arguments, in arrays of them, and in objects.
- An object's choices list what each of its keys may be; an object inside an object is compared as it is.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

# BFCL's names of types, and those of JSON Schema that its descriptions are converted to. BFCL reads "any" as a string.
_TYPES: dict[str, type] = {
    "string": str,
    "any": str,
    "integer": int,
    "float": float,
    "number": float,
    "boolean": bool,
    "array": list,
    "tuple": list,
    "dict": dict,
    "object": dict,
}
_LEFT_OUT = ""
_PUNCTUATION = re.compile(r"[ ,./\-_*^]")


def arguments_allowed(
    arguments: Mapping[str, Any], allowed: Mapping[str, list[Any]], parameters: Mapping[str, Any] | None
) -> bool:
    """Whether a call's arguments are among those that a possible answer allows.

    Args:
        arguments: Of the call.
        allowed: For each argument what it may be.
        parameters: The function's JSON Schema, with BFCL's names of types or JSON's. None, or a property without a
            type: the type of the first choice is due.
    """
    properties = (parameters or {}).get("properties") or {}
    required = (parameters or {}).get("required") or ()
    if any(name not in arguments for name in required):
        return False
    for name, value in arguments.items():
        if name not in allowed or (parameters is not None and name not in properties):
            return False
        if not _allowed(value, allowed[name], properties.get(name)):
            return False
    return all(name in arguments or _LEFT_OUT in choices for name, choices in allowed.items())


def _allowed(value: Any, choices: list[Any], schema: Any) -> bool:
    first = _first_type(choices)
    due = _due(schema) or first
    given = float if due is float and type(value) is int else type(value)
    if given is due:
        items = _due(schema.get("items")) if due is list and isinstance(schema, dict) else None
        if items is not None and not any(_items_fit(value, choice, items) for choice in choices):
            return False
        as_it_is = first is not None and first is not due
    elif given is first:
        as_it_is = True
    else:
        return False
    if as_it_is:
        return value in choices
    if due is dict:
        return any(_object_allowed(value, choice) for choice in choices)
    if due is list and items is dict:
        return any(
            len(value) == len(choice) and all(map(_object_allowed, value, choice))
            for choice in map(_listed, choices)
            if choice is not None
        )
    if due is list:
        return _standard(value) in [_standard(choice) for choice in map(_listed, choices) if choice is not None]
    return _standard(value) in [_standard(choice) for choice in choices]


def _due(schema: Any) -> type | None:
    """The Python type that a schema asks for, None where it does not say."""
    name = schema.get("type") if isinstance(schema, dict) else None
    return _TYPES.get(name) if isinstance(name, str) else None


def _first_type(choices: Any) -> type | None:
    return next((type(choice) for choice in choices if choice != _LEFT_OUT), None)


def _items_fit(value: list[Any], choice: Any, items: type) -> bool:
    """Whether each item has the type of the schema's items or of the choice's; any has for a choice that is no list."""
    if not isinstance(choice, list):
        return True
    first = _first_type(choice)
    return all(type(item) is items or type(item) is first for item in value)


def _object_allowed(value: Any, choice: Any) -> bool:
    if not isinstance(value, dict) or not isinstance(choice, dict):
        return False
    allowed = {key: one if isinstance(one, list) else [one] for key, one in choice.items()}
    for key, part in value.items():
        if key not in allowed or _standard(part, deep=False) not in [
            _standard(one, deep=False) for one in allowed[key]
        ]:
            return False
    return all(key in value or _LEFT_OUT in choices for key, choices in allowed.items())


def _listed(choice: Any) -> list[Any] | None:
    """A choice as an array: "" as an empty one, as BFCL takes it."""
    return [] if choice == _LEFT_OUT else choice if isinstance(choice, list) else None


def _standard(value: Any, *, deep: bool = True) -> Any:
    """A string without case and punctuation, an array with its strings so; anything else as it is."""
    if isinstance(value, str):
        return _PUNCTUATION.sub("", value).lower().replace("'", '"')
    return [_standard(item, deep=False) for item in value] if deep and isinstance(value, list) else value
