"""Answers near the right ones: what a model might write instead, so that a checker's rules are tried at their edges."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable
from typing import Any

from tests.tasks.calls.bfcl import Case
from tinyengram.tasks.conversations import Call

_PUNCTUATION = " ,./-_*^'\"!:;()"
_VALUES = ("", " ", "-", 0, 1, 1.0, -1, 2.5, True, False, None, [], {}, [""], [1], [1.0], [True], ["a"], [{}], {"a": 1})


def answer(case: Case, rng: random.Random) -> list[Call]:
    """A right answer, drawn from the choices, changed up to three times."""
    calls = [Call(name, _drawn_keys(allowed, rng)) for possible in case.truth for name, allowed in possible.items()]
    for _ in range(rng.choice((0, 1, 1, 1, 1, 2, 3))):
        calls = rng.choice(_CHANGES)(calls, case, rng)
    return calls


def _drawn_keys(allowed: dict[str, Any], rng: random.Random) -> dict[str, Any]:
    listed = {key: choices if isinstance(choices, list) else [choices] for key, choices in allowed.items()}
    drawn = {key: rng.choice(choices) for key, choices in listed.items() if choices}
    # An optional argument is mostly left out, and now and then written as "".
    return {key: _drawn(choice, rng) for key, choice in drawn.items() if choice != "" or rng.random() < 0.1}


def _drawn(choice: Any, rng: random.Random) -> Any:
    if isinstance(choice, dict):
        return _drawn_keys(choice, rng)
    return [_drawn(part, rng) for part in choice] if isinstance(choice, list) else choice


# --- one value -------------------------------------------------------------------------------------------------------


def _changed(value: Any, rng: random.Random) -> Any:
    """A value of another type, of the same type but near, or something else altogether."""
    if rng.random() < 0.25:
        return copy.deepcopy(rng.choice(_VALUES))
    if rng.random() < 0.15:
        return rng.choice((lambda: [value], lambda: str(value), lambda: {"value": value}, lambda: [value, value]))()
    if isinstance(value, bool):
        return rng.choice((not value, int(value), str(value), str(value).lower(), float(value)))
    if isinstance(value, int):
        return rng.choice((float(value), value + 1, -value, str(value), bool(value), value + 0.5, f"{value}.0"))
    if isinstance(value, float):
        return rng.choice((int(value), round(value), value + 0.1, str(value), -value, value * 100))
    if isinstance(value, str):
        return _changed_text(value, rng)
    if isinstance(value, list):
        return _changed_list(list(value), rng)
    if isinstance(value, dict):
        return _changed_keys(dict(value), rng)
    return rng.choice(("None", "null", "", 0, False))


def _changed_text(value: str, rng: random.Random) -> Any:
    at = rng.randrange(len(value) + 1)
    mark = rng.choice(_PUNCTUATION)
    return rng.choice(
        (
            lambda: value.upper(),
            lambda: value.lower(),
            lambda: value.swapcase(),
            lambda: value[:at] + mark + value[at:],
            lambda: value.replace(" ", mark),
            lambda: value.replace("-", "/"),
            lambda: value.replace("/", "-"),
            lambda: value.replace("'", '"'),
            lambda: value.replace(",", ""),
            lambda: "/".join(reversed(value.split("-"))),
            lambda: f" {value} ",
            lambda: value[:at] + value[at + 1 :],
            lambda: value + "x",
            lambda: value.split(" ")[0],
            lambda: value.split(","),
            lambda: list(value),
            lambda: float(value) if value.isdecimal() else value,
            lambda: int(value) if value.isdecimal() else value,
        )
    )()


def _changed_list(value: list[Any], rng: random.Random) -> Any:
    if value and rng.random() < 0.5:
        at = rng.randrange(len(value))
        value[at] = _changed(value[at], rng)
        return value
    if value and rng.random() < 0.2:
        return [_changed(part, random.Random(0)) for part in value]
    return rng.choice(
        (
            lambda: value[::-1],
            lambda: rng.sample(value, len(value)),
            lambda: value[:-1],
            lambda: value + value[:1],
            lambda: [*value, ""],
            lambda: [float(part) if isinstance(part, int) else part for part in value],
            lambda: [int(part) if isinstance(part, float) else part for part in value],
            lambda: [str(part) for part in value],
            lambda: value[0] if value else None,
            lambda: ", ".join(map(str, value)),
            lambda: [value],
            lambda: [part for inner in value for part in (inner if isinstance(inner, list) else [inner])],
        )
    )()


def _changed_keys(value: dict[str, Any], rng: random.Random) -> Any:
    if not value:
        return {"a": 1}
    key = rng.choice(list(value))
    change = rng.randrange(6)
    if change < 2:
        value[key] = _changed(value[key], rng)
    elif change == 2:
        del value[key]
    elif change == 3:
        value[key + "_"] = value.pop(key)
    elif change == 4:
        value["extra"] = rng.choice(_VALUES)
    else:
        return list(value.values())
    return value


# --- one call, or all of them ----------------------------------------------------------------------------------------


def _one(change: Callable[[Call, Case, random.Random], Call]) -> Callable[..., list[Call]]:
    def changed(calls: list[Call], case: Case, rng: random.Random) -> list[Call]:
        if not calls:
            return calls
        at = rng.randrange(len(calls))
        return [*calls[:at], change(calls[at], case, rng), *calls[at + 1 :]]

    return changed


def _value(call: Call, case: Case, rng: random.Random) -> Call:
    if not call.arguments:
        return call
    name = rng.choice(list(call.arguments))
    return Call(call.name, {**call.arguments, name: _changed(copy.deepcopy(call.arguments[name]), rng)})


def _drop(call: Call, case: Case, rng: random.Random) -> Call:
    dropped = rng.choice(list(call.arguments) or [""])
    return Call(call.name, {name: value for name, value in call.arguments.items() if name != dropped})


def _add(call: Call, case: Case, rng: random.Random) -> Call:
    known = [name for one in case.functions for name in one["parameters"]["properties"]]
    name = rng.choice([*known, *known, "unknown"])
    return Call(call.name, {name: rng.choice(_VALUES), **call.arguments})


def _rename_argument(call: Call, case: Case, rng: random.Random) -> Call:
    renamed = rng.choice(list(call.arguments) or [""])
    other = rng.choice((renamed.upper(), renamed + "s", renamed.replace("_", "")))
    return Call(call.name, {other if name == renamed else name: value for name, value in call.arguments.items()})


def _rename(call: Call, case: Case, rng: random.Random) -> Call:
    others = [one["name"] for one in case.functions]
    name = call.name
    return Call(
        rng.choice([*others, name.upper(), name.replace("_", "."), name.replace(".", "_"), name + "s"]), call.arguments
    )


def _reorder(calls: list[Call], case: Case, rng: random.Random) -> list[Call]:
    return rng.sample(calls, len(calls))


def _lose(calls: list[Call], case: Case, rng: random.Random) -> list[Call]:
    return calls[:-1]


def _repeat(calls: list[Call], case: Case, rng: random.Random) -> list[Call]:
    if not calls:
        return calls
    return rng.choice(([*calls, rng.choice(calls)], [calls[0], *calls[:-1]]))


def _swap_arguments(calls: list[Call], case: Case, rng: random.Random) -> list[Call]:
    if len(calls) < 2:
        return calls
    first, second, *rest = calls
    return [Call(first.name, second.arguments), Call(second.name, first.arguments), *rest]


_CHANGES: tuple[Callable[..., list[Call]], ...] = (
    *([_one(_value)] * 10),
    *([_one(_drop)] * 2),
    _one(_add),
    _one(_add),
    _one(_rename_argument),
    _one(_rename),
    _reorder,
    _reorder,
    _lose,
    _repeat,
    _swap_arguments,
)
