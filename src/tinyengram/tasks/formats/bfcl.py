"""``bfcl``: the Berkeley Function Calling Leaderboard's single-turn requests, embedded.

Java's and JavaScript's answers are not JSON and are left out.

Source: https://github.com/ShishirPatil/gorilla/tree/main/berkeley-function-call-leaderboard
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any

from tinyengram.sources import Provenance, wheels
from tinyengram.tasks.conversations import Call, Conversation, Turn

BFCL = "bfcl"

_CATEGORIES = (
    "simple_python",
    "multiple",
    "parallel",
    "parallel_multiple",
    "live_simple",
    "live_multiple",
    "live_parallel",
    "live_parallel_multiple",
)
_IRRELEVANCE = ("irrelevance", "live_irrelevance")
_TYPES = {"dict": "object", "float": "number", "tuple": "array", "any": "string"}
_INSTRUCTION = "You are a helpful assistant with access to the following functions. Use them if required -"


def read_calls() -> list[Conversation]:
    """Requests with the calls that answer them, in BFCL's order; the first allowed value of each argument is learnt."""
    return [conversation for category in _CATEGORIES for conversation in _read(category)]


def read_irrelevant() -> list[Conversation]:
    """Requests that none of the offered functions fits: the right thing is not to call, what to say is unknown."""
    return [conversation for category in _IRRELEVANCE for conversation in _read(category)]


def provenance() -> Provenance:
    """Which release the requests come from."""
    return Provenance(
        name=BFCL,
        kind="embedded",
        revision=wheels.BFCL.requirement,
        sha256=wheels.BFCL.sha256,
        note="BFCL v4, single turn",
    )


def _read(category: str) -> Iterator[Conversation]:
    answers: dict[str, list[dict[str, Any]]] = {}
    if category not in _IRRELEVANCE:
        answers = {row["id"]: row["ground_truth"] for row in _rows(f"possible_answer/BFCL_v4_{category}.json")}
    for row in _rows(f"BFCL_v4_{category}.json"):
        yield _conversation(row, answers.get(row["id"], []))


def _rows(member: str) -> Iterator[dict[str, Any]]:
    for line in wheels.read_member(wheels.BFCL, f"bfcl_eval/data/{member}").splitlines():
        if line.strip():
            yield json.loads(line)


def _conversation(row: dict[str, Any], ground_truth: Sequence[dict[str, Any]]) -> Conversation:
    messages = [message for turn in row["question"] for message in turn]
    system = [message["content"] for message in messages if message["role"] == "system"]
    asked = "\n".join(message["content"] for message in messages if message["role"] == "user")
    turns = (Turn("system", "\n".join([*system, _INSTRUCTION])), Turn("user", asked))
    calls = tuple(
        Call(name, _first_allowed_arguments(arguments)) for call in ground_truth for name, arguments in call.items()
    )
    return Conversation(
        id=f"{BFCL}:{row['id']}",
        turns=(*turns, Turn("assistant", calls=calls)) if calls else turns,
        tools=tuple(_json_schema(function) for function in row["function"]),
        learnt=(len(turns),) if calls else (),
        ground_truth=tuple(ground_truth),
    )


def _json_schema(value: Any) -> Any:
    """BFCL's Python type names as JSON Schema's, at any depth."""
    if isinstance(value, dict):
        return {
            key: _TYPES.get(part, part) if key == "type" and isinstance(part, str) else _json_schema(part)
            for key, part in value.items()
        }
    return [_json_schema(part) for part in value] if isinstance(value, list) else value


def _first_allowed_arguments(arguments: dict[str, list]) -> dict[str, Any]:
    """The first allowed value of each argument; one whose first allowed value is ``""`` may be left out, and is."""
    return {name: _first_allowed(allowed[0]) for name, allowed in arguments.items() if allowed and allowed[0] != ""}


def _first_allowed(value: Any) -> Any:
    """A possible answer as a plain value: objects inside it again list what each of their keys may be."""
    if isinstance(value, dict):
        return {
            key: _first_allowed(allowed[0]) if isinstance(allowed, list) else allowed
            for key, allowed in value.items()
            if allowed != [] and not (isinstance(allowed, list) and allowed[0] == "")
        }
    return [_first_allowed(part) for part in value] if isinstance(value, list) else value
