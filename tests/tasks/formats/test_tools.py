"""Functions in any of the shapes in which they are described become bare JSON Schema, or are refused by name."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tinyengram.tasks.formats.schemas import parameters_schema
from tinyengram.tasks.formats.tools import offered_tools
from tinyengram.tasks.formats.values import MalformedError

EMPTY = {"type": "object", "properties": {}}


def parameter(written: Any, **more: Any) -> Any:
    schema = parameters_schema({"x": {"type": written, **more}}, "p")
    return schema["properties"]["x"]


class TestOffered:
    def test_wrapped_bare_and_text_are_the_same(self) -> None:
        bare = {"name": "f", "description": "d", "parameters": EMPTY}
        wrapped = {"type": "function", "function": bare}
        flat = {"type": "function", **bare}
        for written in ([bare], [wrapped], [flat], bare, json.dumps([wrapped]), json.dumps(bare), [json.dumps(bare)]):
            assert offered_tools(written) == (bare,)

    @pytest.mark.parametrize("nothing", [None, "", " ", [], {}, "null", "[]"])
    def test_no_tools(self, nothing: Any) -> None:
        assert offered_tools(nothing.strip() if isinstance(nothing, str) else nothing) == ()

    def test_what_is_missing_is_filled_in_and_other_keys_are_kept(self) -> None:
        described = {"strict": True, "name": "f", "parameters": None, "returns": None}
        (tool,) = offered_tools([described])
        assert tool == {"name": "f", "description": "", "parameters": EMPTY, "strict": True}
        assert list(tool)[:3] == ["name", "description", "parameters"]

    @pytest.mark.parametrize("key", ["input_schema", "inputSchema"])
    def test_other_names_of_the_schema(self, key: str) -> None:
        schema = {"type": "object", "properties": {"a": {"type": "string"}}}
        assert offered_tools([{"name": "f", key: schema}])[0]["parameters"] == schema

    @pytest.mark.parametrize(
        ("tool", "reason"),
        [
            ("f", "tools[0]: not valid JSON"),
            (5, 'tools[0] must be an object {"name", "description", "parameters"}, not 5'),
            ({}, "tools[0] needs a 'name'"),
            ({"name": 7}, "tools[0] needs a 'name' that is text: {\"name\": 7}"),
            ({"type": "code_interpreter"}, "tools[0] needs a 'name'"),
            ({"name": "f", "description": 5}, "tools[0].description must be text, not 5"),
            ({"name": "f", "parameters": []}, 'tools[0].parameters of "f" must be a JSON Schema object'),
            ({"name": "f", "parameters": {"type": "array"}}, 'must describe an object, not "array"'),
            ({"name": "f", "parameters": {"type": "object", "properties": []}}, "properties must be an object"),
            ({"name": "f", "parameters": {"properties": {"a": {}}, "required": "a"}}, "'required' must be a list"),
            ({"name": "f", "parameters": {"a": "text"}}, 'the parameter "a" must be described by an object'),
        ],
    )
    def test_what_describes_no_function_is_refused(self, tool: Any, reason: str) -> None:
        with pytest.raises(MalformedError) as error:
            offered_tools([tool])
        assert reason in str(error.value)

    def test_the_same_tool_twice_counts_once_and_two_of_one_name_are_refused(self) -> None:
        assert len(offered_tools([{"name": "f"}, {"name": "f"}])) == 1
        with pytest.raises(MalformedError, match='two different functions called "f"'):
            offered_tools([{"name": "f"}, {"name": "f", "description": "other"}])


class TestSchemas:
    @pytest.mark.parametrize(
        ("written", "schema"),
        [
            ("str", {"type": "string"}),
            ("int", {"type": "integer"}),
            ("float", {"type": "number"}),
            ("bool", {"type": "boolean"}),
            ("dict", {"type": "object"}),
            ("string", {"type": "string"}),
            ("String", {"type": "string"}),
            ("List[str]", {"type": "array", "items": {"type": "string"}}),
            ("Dict[str, int]", {"type": "object", "additionalProperties": {"type": "integer"}}),
            ("list[List[Any]]", {"type": "array", "items": {"type": "array"}}),
            ("Tuple[int, int]", {"type": "array", "items": {"type": "integer"}}),
            ("Tuple[int, str]", {"type": "array"}),
            ("Union[int, str]", {"anyOf": [{"type": "integer"}, {"type": "string"}]}),
            ("int | None", {"anyOf": [{"type": "integer"}, {"type": "null"}]}),
            ("Optional[float]", {"type": "number"}),
            ("Literal['a', 2]", {"enum": ["a", 2]}),
            ("Any", {}),
            ("set", {"type": "array"}),
            ("Quaternion", {"type": "Quaternion"}),
            ("str, see above", {"type": "str, see above"}),
            ("List[str], optional", {"type": "array", "items": {"type": "string"}}),
        ],
    )  # fmt: skip
    def test_python_types(self, written: str, schema: dict) -> None:
        assert parameter(written) == schema

    def test_parameters_by_name_are_required_unless_they_say_otherwise(self) -> None:
        written = {
            "a": {"type": "str"},
            "b": {"type": "str, optional"},
            "c": {"type": "int", "default": 3},
            "d": {"type": "Optional[int]"},
            "e": {"type": "int", "default": 3, "required": True},
            "f": {"type": "int", "required": False},
            "g": {"type": "int", "optional": True},
            "h": {"type": "string"},
            "i": {"description": "anything"},
        }
        schema = parameters_schema(written, "p")
        assert schema["required"] == ["a", "e", "h", "i"]
        assert schema["properties"]["b"] == {"type": "string"}
        assert schema["properties"]["e"] == {"type": "integer", "default": 3}

    def test_a_list_beside_flat_parameters_says_what_is_required(self) -> None:
        tool = {"name": "f", "parameters": {"a": {"type": "str", "default": ""}}, "required": ["a"]}
        assert offered_tools([tool])[0]["parameters"]["required"] == ["a"]

    def test_parameters_called_type_and_properties_are_parameters(self) -> None:
        written = {"type": {"type": "str"}, "properties": {"type": "str", "description": "d"}}
        schema = parameters_schema(written, "p")
        assert schema["properties"] == {
            "type": {"type": "string"},
            "properties": {"type": "string", "description": "d"},
        }

    def test_json_schema_stays_as_it_is_key_by_key(self) -> None:
        inner = {
            "type": "array",
            "items": {"type": "object", "properties": {"type": {"enum": ["float"]}}},
            "default": None,
        }
        schema = {"required": [], "type": "object", "properties": {"a": inner}, "additionalProperties": False}
        assert json.dumps(parameters_schema(schema, "p")) == json.dumps(schema)

    def test_types_are_converted_at_every_level(self) -> None:
        inner = {"type": "dict", "properties": {"a": {"type": "list", "items": {"anyOf": [{"type": "float"}]}}}}
        schema = parameters_schema({"type": "dict", "properties": {"x": inner}}, "p")
        deep = schema["properties"]["x"]["properties"]["a"]
        assert (schema["type"], deep) == ("object", {"type": "array", "items": {"anyOf": [{"type": "number"}]}})

    def test_nulls_of_merged_tables_go(self) -> None:
        written = {
            "type": "object",
            "properties": {"a": {"type": "string", "enum": None, "items": None}, "b": None},
            "required": ["a"],
            "$defs": None,
        }
        assert parameters_schema(written, "p") == {
            "type": "object",
            "properties": {"a": {"type": "string"}},
            "required": ["a"],
        }
