"""What functions take, as JSON Schema: whatever a data set writes instead is converted.

xLAM lists parameters by name with Python's types (``{"city": {"type": "str, optional", "default": "Oslo"}}``), ToolACE
writes JSON Schema with ``dict`` and ``float``.

Sources: https://json-schema.org/draft/2020-12; the data sets' cards, Salesforce/xlam-function-calling-60k and
Team-ACE/ToolACE.
"""

from __future__ import annotations

import ast
import re
from typing import Any

from tinyengram.tasks.formats.values import MalformedError, checked, shown

_TYPES = ("string", "integer", "number", "boolean", "array", "object", "null")
_PYTHON_TYPES = {
    "str": "string",
    "int": "integer",
    "long": "integer",
    "float": "number",
    "double": "number",
    "bool": "boolean",
    "list": "array",
    "tuple": "array",
    "set": "array",
    "sequence": "array",
    "iterable": "array",
    "dict": "object",
    "mapping": "object",
    "none": "null",
    "nonetype": "null",
} | {name: name for name in _TYPES}
_NULL_MEANS_SOMETHING = ("default", "const")
_SCHEMAS_BY_NAME = ("properties", "patternProperties", "$defs", "definitions")
_SCHEMA_LISTS = ("anyOf", "oneOf", "allOf", "prefixItems")
_SCHEMAS = ("items", "additionalProperties", "not")


def parameters_schema(value: Any, what: str) -> dict[str, Any]:
    """The parameters of a function as a JSON Schema object.

    Args:
        value: JSON Schema, parameters by name (see above), or null where there are none.
        what: Its name in messages.

    Raises:
        MalformedError: It is neither, or describes something other than an object.
    """
    if value is None:
        return {"type": "object", "properties": {}}
    if not isinstance(value, dict):
        raise MalformedError(f'{what} must be a JSON Schema object such as {{"type": "object"}}, not {shown(value)}')
    value = checked(value, what)
    schema = _schema(value, what)[0] if _is_schema(value) else _by_name(value, what)
    if schema.get("type", "object") != "object":
        raise MalformedError(f"{what} must describe an object, not {shown(schema['type'])}")
    return {**({} if "type" in schema else {"type": "object"}), **schema, "properties": schema.get("properties", {})}


def _is_schema(value: dict[str, Any]) -> bool:
    """Told by a type that is no parameter called "type", or properties that are no parameter called "properties"."""
    if isinstance(value.get("type"), str | list):
        return True
    properties = value.get("properties")
    return isinstance(properties, dict) and all(part is None or isinstance(part, dict) for part in properties.values())


def _by_name(value: dict[str, Any], what: str) -> dict[str, Any]:
    described = {name: part for name, part in value.items() if part is not None}
    for name, part in described.items():
        if not isinstance(part, dict):
            raise MalformedError(
                f"{what}: the parameter {shown(name)} must be described by an object such as "
                f'{{"type": "string"}}, not {shown(part)}'
            )
    return _object({}, described, what, needed_by_default=True)


def _object(rest: dict[str, Any], named: dict[str, Any], what: str, *, needed_by_default: bool) -> dict[str, Any]:
    """An object's schema. Which parameters are required may be said in each of them, or (xLAM) by having no default."""
    properties, needed = {}, []
    for name, part in named.items():
        said = {key: part[key] for key in ("required", "optional") if isinstance(part.get(key), bool)}
        plain = {key: value for key, value in part.items() if key not in said}
        properties[name], optional = _schema(plain, what)
        if said.get("required", needed_by_default and not (optional or said.get("optional") or "default" in plain)):
            needed.append(name)
    required = rest.pop("required", needed or None)
    if not isinstance(required, list | None):
        raise MalformedError(f"{what}: 'required' must be a list of names, not {shown(required)}")
    return {**rest, "properties": properties, **({} if required is None else {"required": required})}


def _schema(value: dict[str, Any], what: str) -> tuple[dict[str, Any], bool]:
    """The schema with JSON's types at every level, and whether its type says that it may be left out.

    Nulls go, but for those that mean null: where Arrow stored the schemas of several functions as one, each has a null
    for every key and property of the others.
    """
    schema: dict[str, Any] = {}
    optional = False
    for key, part in value.items():
        if key == "type" and isinstance(part, str):
            written, optional = _type(part)
            schema.update(written)
        elif part is None and key not in _NULL_MEANS_SOMETHING:
            continue
        elif key in _SCHEMAS_BY_NAME and key != "properties" and isinstance(part, dict):
            schema[key] = {name: _inner(inner, what) for name, inner in part.items() if inner is not None}
        elif key in _SCHEMA_LISTS and isinstance(part, list):
            schema[key] = [_inner(inner, what) for inner in part]
        elif key in _SCHEMAS:
            schema[key] = _inner(part, what)
        else:
            schema[key] = part
    named = schema.get("properties")
    if not isinstance(named, dict | None):
        raise MalformedError(f"{what}: properties must be an object of JSON Schemas, not {shown(named)}")
    if named is not None:
        described = {name: part for name, part in named.items() if part is not None}
        for name, part in described.items():
            if not isinstance(part, dict):
                raise MalformedError(f"{what}: {shown(name)} must be a JSON Schema object, not {shown(part)}")
        order = list(schema)
        schema = _object(schema, described, what, needed_by_default=False)
        schema = {key: schema[key] for key in [*order, *schema] if key in schema}
    return schema, optional


def _inner(value: Any, what: str) -> Any:
    return _schema(value, what)[0] if isinstance(value, dict) else value


# --- Python's types ------------------------------------------------------------------------------------------------


def _type(text: str) -> tuple[dict[str, Any], bool]:
    """JSON Schema of a type as people write it, and whether it says "optional"; an unknown type stays as it is."""
    if text in _TYPES:
        return {"type": text}, False
    first, *others = _split(text, ",")
    optional = any("optional" in other.lower() for other in others)
    if inside := re.fullmatch(r"(?:typing\.)?Optional\[(.*)\]", first, re.DOTALL):
        return _type(inside[1])[0], True
    if others and not optional:
        return {"type": text}, False
    return _plain_type(first, text), optional


def _plain_type(text: str, whole: str) -> dict[str, Any]:
    choices = _split(text, "|")
    if len(choices) == 1 and (inside := re.fullmatch(r"(?:typing\.)?(\w+)\[(.*)\]", text, re.DOTALL)):
        name, parts = inside[1].lower(), _split(inside[2], ",")
        if name == "literal":
            return _enum(parts, whole)
        if name != "union":
            return _container(_PYTHON_TYPES.get(name), parts, whole)
        choices = parts
    if len(choices) > 1:
        return {"anyOf": [_type(choice)[0] for choice in choices]}
    if text.lower() == "any":
        return {}
    return {"type": _PYTHON_TYPES.get(text.lower().removeprefix("typing."), whole)}


def _container(kind: str | None, parts: list[str], whole: str) -> dict[str, Any]:
    inner = [_type(part)[0] for part in parts if part and part != "..."]
    if kind == "array":
        same = inner and all(part == inner[0] for part in inner)
        return {"type": "array", **({"items": inner[0]} if same and inner[0] else {})}
    if kind == "object":
        return {"type": "object", **({"additionalProperties": inner[1]} if len(inner) == 2 and inner[1] else {})}
    return {"type": whole}


def _enum(parts: list[str], whole: str) -> dict[str, Any]:
    try:
        return {"enum": [ast.literal_eval(part) for part in parts]}
    except (ValueError, SyntaxError):
        return {"type": whole}


def _split(text: str, mark: str) -> list[str]:
    """Parts between ``mark`` s outside brackets, stripped."""
    parts, level = [""], 0
    for letter in text:
        level += {"[": 1, "]": -1}.get(letter, 0)
        if letter == mark and not level:
            parts.append("")
        else:
            parts[-1] += letter
    return [part.strip() for part in parts]
