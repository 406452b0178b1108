"""Functions that are offered, and calls of them, from the shapes in which data sets write them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tinyengram.tasks.conversations import Call
from tinyengram.tasks.formats.schemas import parameters_schema
from tinyengram.tasks.formats.values import MalformedError, checked, json_or_value, json_text, shown, text_of

_PARAMETERS = ("parameters", "input_schema", "inputSchema")  # OpenAI's, Anthropic's, MCP's
_OF_A_CALL = ("name", "arguments", "id", "type", "index")


def offered_tools(value: Any, what: str = "tools") -> tuple[dict[str, Any], ...]:
    """Function descriptions as bare ``{"name", "description", "parameters"}``, further keys kept.

    Args:
        value: A list of descriptions, bare or wrapped as ``{"type": "function", "function": …}``, one of them, JSON
            text of either, or null. The same description twice counts once.
        what: Its name in messages.

    Raises:
        MalformedError: One is no object, has no name or no JSON Schema; or two have one name.
    """
    value = json_or_value(value, what)
    if value is None or value in ("", [], {}):
        return ()
    if isinstance(value, dict):
        value = [value]
    if not isinstance(value, list):
        raise MalformedError(f"{what} must be a list of function descriptions, not {shown(value)}")
    tools: dict[str, dict[str, Any]] = {}
    for index, described in enumerate(value):
        tool = _tool(described, f"{what}[{index}]")
        if tools.setdefault(tool["name"], tool) != tool:
            raise MalformedError(f"{what} describes two different functions called {shown(tool['name'])}; rename one")
    return tuple(tools.values())


def _tool(value: Any, what: str) -> dict[str, Any]:
    value = json_or_value(value, what)
    if isinstance(value, dict) and value.get("function") is not None and "name" not in value:
        value = value["function"]
    if not isinstance(value, dict):
        raise MalformedError(f'{what} must be an object {{"name", "description", "parameters"}}, not {shown(value)}')
    if not isinstance(name := value.get("name"), str) or not name.strip():
        raise MalformedError(f"{what} needs a 'name' that is text: {shown(value)}")
    description = value.get("description")
    key = next((key for key in _PARAMETERS if value.get(key) is not None), "parameters")
    parameters = json_or_value(value.get(key), f"{what}.{key}")
    schema = parameters_schema(None if parameters == "" else parameters, f"{what}.{key} of {shown(name)}")
    known = ("name", "description", "type" if value.get("type") == "function" else "name", *_PARAMETERS)
    others = {key: checked(part, what) for key, part in value.items() if key not in known}
    others = {key: part for key, part in others.items() if part is not None}
    # Flat descriptions, xLAM's kind, may list beside the parameters which of them are required.
    required = others.get("required")
    if "required" not in schema and _are_names(required, schema["properties"]):
        schema |= {"required": others.pop("required")}
    return {
        "name": text_of(name, f"{what}.name"),
        "description": "" if description is None else text_of(description, f"{what}.description"),
        "parameters": schema,
        **others,
    }


def _are_names(value: Any, properties: Mapping[str, Any]) -> bool:
    return isinstance(value, list) and all(isinstance(part, str) and part in properties for part in value)


def read_call(value: Any, what: str) -> Call:
    """A call from ``{"name", "arguments"}``, bare or wrapped under ``function``.

    Args:
        value: ``arguments`` is an object, JSON text of one, or (for none) null, absent or empty.
        what: Its name in messages.

    Raises:
        MalformedError: It is no object, has no name, or its arguments are no object.
    """
    if isinstance(value, dict) and value.get("function") is not None and "name" not in value:
        value = value["function"]
    if not isinstance(value, dict):
        raise MalformedError(f'{what} must be an object {{"name", "arguments"}}, not {shown(value)}')
    if not isinstance(name := value.get("name"), str) or not name.strip():
        raise MalformedError(f"{what} needs the 'name' of a function: {shown(value)}")
    unknown = [key for key, part in value.items() if key not in _OF_A_CALL and part is not None]
    if unknown and value.get("arguments") is None:
        raise MalformedError(f"{what} has {shown(unknown[0])} where its 'arguments' should be: {shown(value)}")
    return Call(
        text_of(name, f"{what}.name"), arguments_of(value.get("arguments"), f"the arguments of {shown(name)} in {what}")
    )


def arguments_of(value: Any, what: str) -> dict[str, Any]:
    """Arguments of a call, from an object, JSON text or nothing."""
    if isinstance(value, str):
        value = json_text(value, what) if value.strip() else {}
    value = {} if value is None else value
    if not isinstance(value, dict):
        raise MalformedError(f'{what} must be a JSON object such as {{"city": "Oslo"}}, not {shown(value)}')
    return checked(value, what)


def read_calls(value: Any, what: str) -> list[Call]:
    """Calls from one object or a list of them, each as :func:`read_call` takes it."""
    if not isinstance(value, list):
        return [read_call(value, what)]
    return [read_call(part, f"{what}[{index}]") for index, part in enumerate(value)]


def without_fillers(call: Call, tools: Sequence[Mapping[str, Any]]) -> Call:
    """The call without the null arguments that a table put there.

    A file that went through a table has a null for each argument of every other function. A null for an argument that
    the call's own function does not know shows it; then all nulls go but those that the schema allows. A call without
    such a null keeps those it has, and so does one whose function is not offered or takes any argument: they were
    meant.
    """
    schema = next((tool["parameters"] for tool in tools if tool["name"] == call.name), None)
    return call if schema is None else Call(call.name, _known(call.arguments, schema))


def _known(value: Any, schema: Any) -> Any:
    if not isinstance(schema, dict):
        return value
    if isinstance(value, list):
        return [_known(part, schema.get("items")) for part in value]
    properties = schema.get("properties")
    if not isinstance(value, dict) or not isinstance(properties, dict):
        return value
    open_ended = schema.get("additionalProperties") not in (None, False)
    filled = not open_ended and any(part is None and key not in properties for key, part in value.items())
    return {
        key: _known(part, properties.get(key))
        for key, part in value.items()
        if part is not None or not filled or _allows_null(properties.get(key))
    }


def _allows_null(schema: Any) -> bool:
    if not isinstance(schema, dict):
        return False
    kinds, values = schema.get("type"), schema.get("enum")
    if kinds == "null" or schema.get("nullable") is True:
        return True
    if (isinstance(kinds, list) and "null" in kinds) or (isinstance(values, list) and None in values):
        return True
    choices = (schema.get(key) for key in ("anyOf", "oneOf"))
    return any(_allows_null(choice) for listed in choices if isinstance(listed, list) for choice in listed)
