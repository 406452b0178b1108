"""BFCL's single-turn rows and its own checker, out of the pinned wheel."""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import ModuleType, SimpleNamespace
from typing import Any

from tinyengram.sources import wheels
from tinyengram.tasks.conversations import Call

CATEGORIES = (
    "simple_python",
    "multiple",
    "parallel",
    "parallel_multiple",
    "live_simple",
    "live_multiple",
    "live_parallel",
    "live_parallel_multiple",
)
_JSON_TYPES = {"dict": "object", "float": "number", "tuple": "array", "any": "string"}

# Whether calls are right: True, False, or the name of the error that the checker raises.
Checker = Callable[["Case", Sequence[Call]], "bool | str"]


@dataclass(frozen=True)
class Case:
    """A row: its functions as BFCL describes them and with JSON Schema's types, and its possible answers."""

    id: str
    category: str
    functions: list[dict[str, Any]]
    tools: list[dict[str, Any]]
    truth: list[dict[str, dict[str, list[Any]]]]


def cases() -> list[Case]:
    """Every row with possible answers in Python, 2,351 of them."""
    found = []
    for category in CATEGORIES:
        answers = {row["id"]: row["ground_truth"] for row in _rows(f"possible_answer/BFCL_v4_{category}.json")}
        for row in _rows(f"BFCL_v4_{category}.json"):
            functions = row["function"]
            found.append(Case(row["id"], category, functions, _with_json_types(functions), answers[row["id"]]))
    return found


def first_allowed(case: Case) -> list[Call]:
    """The answer that is learnt: the first choice of each argument, left out where that is ""."""
    return [Call(name, _first_keys(allowed)) for possible in case.truth for name, allowed in possible.items()]


def _first_keys(allowed: dict[str, Any]) -> dict[str, Any]:
    listed = {key: choices if isinstance(choices, list) else [choices] for key, choices in allowed.items()}
    return {key: _first(choices[0]) for key, choices in listed.items() if choices and choices[0] != ""}


def _first(choice: Any) -> Any:
    if isinstance(choice, dict):
        return _first_keys(choice)
    return [_first(part) for part in choice] if isinstance(choice, list) else choice


@contextmanager
def checker() -> Iterator[Checker]:
    """BFCL's ``ast_checker``, imported from the wheel without what it needs for calling models."""
    before = {name for name in sys.modules if name.split(".")[0] == "bfcl_eval"}
    path = str(wheels.fetch_wheel(wheels.BFCL))
    config = ModuleType("bfcl_eval.constants.model_config")
    config.MODEL_CONFIG_MAPPING = {"model": SimpleNamespace(underscore_to_dot=False)}  # type: ignore[attr-defined]
    sys.path.insert(0, path)
    sys.modules[config.__name__] = config
    try:
        module = importlib.import_module("bfcl_eval.eval_checker.ast_eval.ast_checker")

        def check(case: Case, calls: Sequence[Call]) -> bool | str:
            output = [{call.name: call.arguments} for call in calls]
            try:
                return module.ast_checker(
                    case.functions, output, case.truth, module.Language.PYTHON, case.category, "model"
                )["valid"]
            except Exception as error:
                return type(error).__name__

        yield check
    finally:
        sys.path.remove(path)
        for name in {name for name in sys.modules if name.split(".")[0] == "bfcl_eval"} - before:
            del sys.modules[name]


def _rows(member: str) -> Iterator[dict[str, Any]]:
    for line in wheels.read_member(wheels.BFCL, f"bfcl_eval/data/{member}").decode().splitlines():
        if line.strip():
            yield json.loads(line)


def _with_json_types(value: Any) -> Any:
    if isinstance(value, dict):
        return {
            key: _JSON_TYPES.get(part, part) if key == "type" and isinstance(part, str) else _with_json_types(part)
            for key, part in value.items()
        }
    return [_with_json_types(part) for part in value] if isinstance(value, list) else value
