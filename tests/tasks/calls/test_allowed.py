"""Each rule of BFCL's checker, one by one; ``test_agreement.py`` holds them against the checker itself."""

from __future__ import annotations

from typing import Any

import pytest

from tinyengram.tasks.calls.allowed import arguments_allowed


def allows(value: Any, choices: list[Any], schema: dict[str, Any] | None) -> bool:
    parameters = None if schema is None else {"type": "object", "properties": {"a": schema}, "required": []}
    return arguments_allowed({"a": value}, {"a": choices}, parameters)


def array(items: str) -> dict[str, Any]:
    return {"type": "array", "items": {"type": items}}


STRING, INTEGER, NUMBER = {"type": "string"}, {"type": "integer"}, {"type": "number"}
BOOLEAN, OBJECT = {"type": "boolean"}, {"type": "object"}


@pytest.mark.parametrize(
    ("value", "choices", "schema", "right"),
    [
        # Numbers and truth values have the type of the schema; a whole number will do for a float.
        (5, [5], INTEGER, True),
        (5, [6, 5], INTEGER, True),
        (4, [6, 5], INTEGER, False),
        (5.0, [5], INTEGER, False),
        (True, [1], INTEGER, False),
        ("5", [5], INTEGER, False),
        (None, [5], INTEGER, False),
        (5, [5.0], NUMBER, True),
        (5, [5], NUMBER, True),
        (10**400, [5.0], NUMBER, False),
        (5.5, [5.5], {"type": "float"}, True),
        (True, [1.0], NUMBER, False),
        (True, [True], BOOLEAN, True),
        (1, [True], BOOLEAN, False),
        (False, [True], BOOLEAN, False),
        # "" lets an argument be left out; it is a value where a string is due, and so is an empty array for arrays.
        ("", [5, ""], INTEGER, False),
        ("", [True, ""], BOOLEAN, False),
        ("", ["x", ""], STRING, True),
        ("", ["x"], STRING, False),
        ("", [["x"], ""], array("string"), False),
        ([], [["x"], ""], array("string"), True),
        ([], [["x"]], array("string"), False),
        ([], [["x"], "y"], array("string"), False),
        ([], [[{"k": [1]}], ""], array("object"), True),
        ({}, [{"k": [1]}, ""], OBJECT, False),
        # Strings: without case and some punctuation, the two quotes alike.
        ("NEW-york, ny.", ["New York, NY"], STRING, True),
        ("2024/1/5", ["2024-1-5"], STRING, True),
        ("a^b*c_d", ["abcd"], STRING, True),
        ("it's", ['it"s'], STRING, True),
        ("New York!", ["New York"], STRING, False),
        ("a\tb", ["ab"], STRING, False),
        ("x", [["x"], "y"], STRING, False),
        (5, ["5"], STRING, False),
        ("x", ["x"], {"type": "any"}, True),
        # A first choice of another type is code or a wish of its own: either type, compared as it is.
        ("my_var", ["my_var"], INTEGER, True),
        ("My_var", ["my_var"], INTEGER, False),
        (5, ["dontcare", 5], INTEGER, True),
        (True, [True], STRING, True),
        ("true", [True, "true"], STRING, True),
        ("TRUE", [True, "true"], STRING, False),
        (None, [None], INTEGER, True),
        (None, [5, None], INTEGER, False),
        (None, ["", None], STRING, True),
        ("data['a']", ["data['a']"], array("integer"), True),
        ('data["a"]', ["data['a']"], array("integer"), False),
        # Arrays: in order, of one length, strings as above; items have the schema's type or the choice's.
        ([1, 2], [[1, 2]], array("integer"), True),
        ([2, 1], [[1, 2]], array("integer"), False),
        ([1], [[1, 2]], array("integer"), False),
        ([1.0, 2.0], [[1, 2]], array("integer"), False),
        ([True], [[1]], array("integer"), False),
        ([1, 2], [[1.0, 2.0]], array("number"), False),
        ([1, 2.0], [[1, 2.0]], array("number"), True),
        ([1.5], [[1.5]], {"type": "tuple", "items": {"type": "float"}}, True),
        (["A b", "C"], [["ab", "c"]], array("string"), True),
        (["a", "b"], [["x"], ["a", "b"]], array("string"), True),
        ("a", [["a"]], array("string"), False),
        ([["A"]], [[["a"]]], array("array"), False),
        ([[1, 2]], [[[1, 2]]], array("array"), True),
        # Where it may be left out, the items' types are not looked at.
        ([1.0, True], [[1, 1], ""], array("integer"), True),
        # Objects: no other keys, each with a choice, none missing that may not be.
        ({"k": 1}, [{"k": [1, 2]}], OBJECT, True),
        ({"k": 3}, [{"k": [1, 2]}], OBJECT, False),
        ({"k": 1, "l": 1}, [{"k": [1]}], OBJECT, False),
        ({}, [{"k": [1]}], OBJECT, False),
        ({}, [{"k": [1, ""]}], OBJECT, True),
        ({"k": "Ä b"}, [{"k": ["äb"]}], OBJECT, True),
        ({"k": 1}, [{"k": [2]}, {"k": [1]}], OBJECT, True),
        ({"k": 1.0}, [{"k": [1]}], OBJECT, True),
        ({"k": ["A"]}, [{"k": [["a"]]}], OBJECT, False),
        ({"k": {"l": 1}}, [{"k": [{"l": 1}]}], OBJECT, True),
        ({"k": {"l": 1}}, [{"k": [{"l": [1]}]}], OBJECT, False),
        ({"k": 1}, [{"k": 1}], {"type": "dict"}, True),
        ("x", [{"k": [1]}], OBJECT, False),
        ([{"k": 1}, {"k": 2}], [[{"k": [1]}, {"k": [2, 3]}]], array("object"), True),
        ([{"k": 2}, {"k": 1}], [[{"k": [1]}, {"k": [2, 3]}]], array("object"), False),
        ([{"k": 1}], [[{"k": [1]}, {"k": [2]}]], array("dict"), False),
        ([1], [[{"k": [1]}], ""], array("object"), False),
        # No choice, no right value.
        (5, [], INTEGER, False),
        ([], [], array("string"), False),
        # Without a schema the first choice tells the type.
        (5, [5], None, True),
        (5.0, [5], None, False),
        (5, ["", 5.0], None, True),
        ("X", ["x"], None, True),
        ([1], [[1]], None, True),
        ({"k": 1}, [{"k": [1]}], None, True),
        (5, [5], {}, True),
    ],
)
def test_a_value(value: Any, choices: list[Any], schema: dict[str, Any] | None, right: bool) -> None:
    assert allows(value, choices, schema) is right


def test_which_arguments_there_must_be() -> None:
    parameters = {"properties": {"a": INTEGER, "b": INTEGER, "c": INTEGER}, "required": ["a"]}

    def allowed(given: dict[str, Any], choices: dict[str, list[Any]]) -> bool:
        return arguments_allowed(given, choices, parameters)

    assert allowed({"a": 1, "b": 2}, {"a": [1], "b": [2, ""]})
    assert allowed({"a": 1}, {"a": [1], "b": [2, ""]})
    assert not allowed({"a": 1}, {"a": [1], "b": [2]}), "not given and not optional"
    assert not allowed({"b": 2}, {"a": [1, ""], "b": [2]}), "the schema requires it"
    assert not allowed({"a": 1, "c": 3}, {"a": [1]}), "the answer does not have it"
    assert not allowed({"a": 1, "d": 3}, {"a": [1], "d": [3]}), "the schema does not have it"
    assert not allowed({"a": 1}, {"a": [1], "b": []}), "never given, yet not optional"
    assert arguments_allowed({"d": 3}, {"d": [3]}, None), "nothing is known of the function"
