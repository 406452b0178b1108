"""Tool calls to learn: Glaive, BFCL and own files become :class:`ToolCall` s, and every row is accounted for."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

from pydantic import BaseModel

from tinyengram.errors import nearest
from tinyengram.sources import BadRow, Provenance, Row, RowSource, resolve_rows, wheels
from tinyengram.tasks.errors import TaskError

GLAIVE = "glaiveai/glaive-function-calling-v2"
BFCL = "bfcl"
FORMATS = ("auto", "glaive", "instruction", "messages", "bfcl")
CALL_MARKER = "<functioncall>"

_CALL_MARKERS = (CALL_MARKER, "<tool_code>")
_SHOWN_BAD_ROWS = 5
# Single-turn categories with ground truth; Java and JavaScript answers are not JSON.
_BFCL_CATEGORIES = (
    "simple_python",
    "multiple",
    "parallel",
    "parallel_multiple",
    "live_simple",
    "live_multiple",
    "live_parallel",
    "live_parallel_multiple",
)
_BFCL_IRRELEVANCE = ("irrelevance", "live_irrelevance")
_BFCL_TYPES = {"dict": "object", "float": "number", "tuple": "array", "any": "string"}
_BFCL_INSTRUCTION = "You are a helpful assistant with access to the following functions. Use them if required -"


@dataclass(frozen=True)
class ToolCall:
    """One thing to learn: what the system says, what the user asks, and the call that answers it.

    Attributes:
        id: Where the row stands.
        instruction: System text, tool schema included.
        input: The user's request.
        output: The call; empty where the right thing is not to call.
        tools: BFCL's function descriptions.
        ground_truth: BFCL's possible answers: for each call ``{function: {argument: [allowed, …]}}``.
    """

    id: str
    instruction: str
    input: str
    output: str
    tools: tuple[dict[str, Any], ...] = ()
    ground_truth: tuple[dict[str, Any], ...] = ()


class Skipped(BaseModel):
    """A malformed row, and why it was left out."""

    location: str
    reason: str


@dataclass
class ToolCallData:
    """Training and held-out calls with an account of every row.

    Attributes:
        train, eval: Disjoint.
        skipped: Malformed rows.
        dropped: Rows that the experiment's filter leaves out, counted by reason.
        provenance: Where the rows came from.
    """

    train: list[ToolCall]
    eval: list[ToolCall]
    skipped: list[Skipped]
    dropped: dict[str, int]
    provenance: Provenance


@dataclass
class _Account:
    calls: list[ToolCall] = field(default_factory=list)
    skipped: list[Skipped] = field(default_factory=list)
    dropped: Counter[str] = field(default_factory=Counter)


class _MalformedError(Exception):
    """A row that does not have the shape of its format."""


class _DropError(Exception):
    """A well-formed row that the filter leaves out; the message is the reason."""


def load_tool_calls(
    name: str,
    *,
    format: Literal["auto", "glaive", "instruction", "messages", "bfcl"] = "auto",
    max_bad_rows: int = 0,
    split_seed: int = 42,
    eval_fraction: float = 0.01,
    eval_limit: int | None = 200,
    train_limit: int | None = None,
    revision: str | None = None,
) -> ToolCallData:
    """Load tool calls, filter them as the experiment does, shuffle and split them.

    Shuffle and split are those of ``datasets`` with ``split_seed``, so that Glaive's split is the experiment's own.

    Args:
        name: ``bfcl`` (embedded), a Hub id such as Glaive's, or a local json, jsonl or parquet file or folder.
        format: Shape of the rows: ``glaive`` (``system``, ``chat``), ``instruction`` (``instruction``, ``input``,
            ``output``), ``messages`` (chat ``messages`` and optional ``tools``); ``auto`` goes by the first good row.
        max_bad_rows: Malformed rows that are put up with.
        split_seed: Of the shuffle and of the split.
        eval_fraction: Share of rows held out.
        eval_limit: Most held-out rows; the rest of them is not used at all. ``None``: no limit.
        train_limit: Most training rows. ``None``: no limit.
        revision: Of a Hub data set.

    Returns:
        The calls, and what became of every other row.

    Raises:
        TaskError: More rows are malformed than allowed, no row is left, or a side of the split is empty.
        SourceError: The data cannot be had.
    """
    if format not in FORMATS:
        raise TaskError(f"Data format {format!r} is unknown.{nearest(format, FORMATS)}")
    if not 0 < eval_fraction < 1:
        raise TaskError(f"eval_fraction={eval_fraction} must lie between 0 and 1.")
    if format == "bfcl" or name == BFCL:
        source, account = _read_bfcl(_BFCL_CATEGORIES)
    else:
        source = resolve_rows(name, revision=revision)
        account = _read(source, format, max_bad_rows)
    if not account.calls:
        left_out = ", ".join(f"{count} rows: {reason}" for reason, count in account.dropped.items()) or "it has no rows"
        raise TaskError(f"Nothing to learn is left of {name!r} ({left_out}).")
    train, held_out = _split(account.calls, split_seed, eval_fraction)
    held_out = held_out[:eval_limit]
    if not train or not held_out:
        raise TaskError(
            f"The {'training' if not train else 'eval'} split of {name!r} is empty: {len(account.calls)} usable rows "
            f"with eval_fraction={eval_fraction} and eval_limit={eval_limit}. Raise them or give more rows."
        )
    return ToolCallData(train[:train_limit], held_out, account.skipped, dict(account.dropped), source.provenance)


def load_irrelevant(limit: int | None = None) -> list[ToolCall]:
    """BFCL's requests that none of the offered tools fits: the right thing is not to call, so ``output`` is empty."""
    return _read_bfcl(_BFCL_IRRELEVANCE)[1].calls[:limit]


def _split(calls: list[ToolCall], seed: int, eval_fraction: float) -> tuple[list[ToolCall], list[ToolCall]]:
    """Shuffle, then split, each with ``seed``, by the numbers that ``datasets`` would use."""
    from datasets import Dataset

    if len(calls) < 2:
        return calls, []
    order = Dataset.from_dict({"row": list(range(len(calls)))}).shuffle(seed=seed)
    parts = order.train_test_split(test_size=eval_fraction, seed=seed)
    return [calls[row] for row in parts["train"]["row"]], [calls[row] for row in parts["test"]["row"]]


# --- rows of files and the Hub -------------------------------------------------------------------------------------


def _read(source: RowSource, format: str, max_bad_rows: int) -> _Account:
    account = _Account()
    for row in source:
        try:
            if isinstance(row, BadRow):
                raise _MalformedError(row.reason)
            if format == "auto":
                format = _format_of(row)
            account.calls.append(_PARSERS[format](row))
        except _DropError as dropped:
            account.dropped[str(dropped)] += 1
        except _MalformedError as error:
            account.skipped.append(Skipped(location=row.location, reason=str(error)))
            if len(account.skipped) > max_bad_rows:
                shown = "\n".join(f"  {bad.location}: {bad.reason}" for bad in account.skipped[:_SHOWN_BAD_ROWS])
                raise TaskError(
                    f"{len(account.skipped)} malformed rows, more than max_bad_rows={max_bad_rows} allows:\n{shown}\n"
                    "Mend them, or raise max_bad_rows to skip such rows."
                ) from error
    return account


def _format_of(row: Row) -> str:
    for format, keys in (("glaive", {"system", "chat"}), ("messages", {"messages"}), ("instruction", {"output"})):
        if keys <= row.values.keys():
            return format
    raise TaskError(
        f"{row.location} has the keys {sorted(row.values)}; expected 'system' and 'chat' (Glaive), 'messages' "
        "(chat), or 'instruction', 'input' and 'output'."
    )


def _text(row: Row, key: str, default: str | None = None) -> str:
    value = row.values.get(key, default)
    if not isinstance(value, str):
        raise _MalformedError(f"{key!r} must be text, not {type(value).__name__}")
    return value


def _parse_glaive(row: Row) -> ToolCall:
    """The experiment's filter: the first assistant turn that calls, with the user turn before it."""
    system, chat = _text(row, "system"), _text(row, "chat")
    if "no access to external functions" in system:
        raise _DropError("no functions offered")
    turns = chat.split("ASSISTANT:")
    calling = (index for index in range(1, len(turns)) if any(marker in turns[index] for marker in _CALL_MARKERS))
    first = next(calling, None)
    if first is None:
        raise _DropError("no assistant turn calls a function")
    before, turn = turns[first - 1], turns[first]
    output = turn.split("USER:")[0].split("FUNCTION RESPONSE")[0].strip().removesuffix("<|endoftext|>").strip()
    if "USER:" not in before:
        raise _DropError("no user turn right before the call")
    if not any(marker in output for marker in (*_CALL_MARKERS, "{")):
        raise _DropError("the cut turn holds no call")
    return ToolCall(row.location, system.strip(), before.rpartition("USER:")[2].strip(), output)


def _parse_instruction(row: Row) -> ToolCall:
    output = _text(row, "output")
    if not output.strip():
        raise _MalformedError("'output' is empty")
    return ToolCall(row.location, _text(row, "instruction", ""), _text(row, "input", ""), output)


def _parse_messages(row: Row) -> ToolCall:
    """The last assistant message is the output, the user message before it the input, tools go to the instruction."""
    messages = row.values.get("messages")
    if not isinstance(messages, list) or not all(isinstance(message, dict) for message in messages):
        raise _MalformedError("'messages' must be a list of objects")
    roles = [message.get("role") for message in messages]
    if "assistant" not in roles or "user" not in roles:
        raise _MalformedError(f"'messages' needs a user and an assistant message, has the roles {roles}")
    last = len(roles) - 1 - roles[::-1].index("assistant")
    asked = [index for index in range(last) if roles[index] == "user"]
    if not asked:
        raise _MalformedError("no user message before the last assistant message")
    tools = row.values.get("tools") or ()
    if isinstance(tools, str):
        try:
            tools = json.loads(tools)
        except ValueError as error:
            raise _MalformedError(f"'tools' is text but not JSON: {error}") from error
    system = "\n".join(str(m.get("content") or "") for m in messages if m.get("role") == "system")
    offered = [tool.get("function", tool) if isinstance(tool, dict) else tool for tool in tools]
    instruction = "\n".join(part for part in (system, *map(_compact, offered)) if part)
    return ToolCall(
        row.location,
        instruction,
        str(messages[asked[-1]].get("content") or ""),
        _spoken(messages[last]),
        tuple(offered),
    )


def _spoken(message: dict[str, Any]) -> str:
    """Text of an assistant message; structured ``tool_calls`` are written as calls, one a line."""
    lines = [message["content"]] if message.get("content") else []
    for call in message.get("tool_calls") or ():
        function = call.get("function", call)
        arguments = function.get("arguments", {})
        if isinstance(arguments, str):
            try:
                arguments = json.loads(arguments or "{}")
            except ValueError as error:
                raise _MalformedError(f"arguments of {function.get('name')!r} are not JSON: {error}") from error
        lines.append(format_call(function.get("name"), arguments))
    if not lines:
        raise _MalformedError("the last assistant message is empty")
    return "\n".join(lines)


_PARSERS = {"glaive": _parse_glaive, "instruction": _parse_instruction, "messages": _parse_messages}


def format_call(name: Any, arguments: Any) -> str:
    """A call as the model shall write it."""
    return f"{CALL_MARKER} {_compact({'name': name, 'arguments': arguments})}"


def _compact(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


# --- BFCL ----------------------------------------------------------------------------------------------------------


def _read_bfcl(categories: tuple[str, ...]) -> tuple[RowSource, _Account]:
    account = _Account()
    for category in categories:
        answers: dict[str, list] = {}
        if category not in _BFCL_IRRELEVANCE:
            answers = {row["id"]: row["ground_truth"] for row in _bfcl_rows(f"possible_answer/BFCL_v4_{category}.json")}
        for row in _bfcl_rows(f"BFCL_v4_{category}.json"):
            account.calls.append(_bfcl_call(row, answers.get(row["id"], [])))
    provenance = Provenance(
        name=BFCL,
        kind="embedded",
        revision=wheels.BFCL.requirement,
        sha256=wheels.BFCL.sha256,
        note="BFCL v4, single turn",
    )
    return RowSource((), provenance), account


def _bfcl_rows(member: str) -> Iterator[dict[str, Any]]:
    for line in wheels.read_member(wheels.BFCL, f"bfcl_eval/data/{member}").splitlines():
        if line.strip():
            yield json.loads(line)


def _bfcl_call(row: dict[str, Any], ground_truth: list[dict[str, Any]]) -> ToolCall:
    messages = [message for turn in row["question"] for message in turn]
    system = [message["content"] for message in messages if message["role"] == "system"]
    asked = "\n".join(message["content"] for message in messages if message["role"] == "user")
    tools = tuple(_json_schema(function) for function in row["function"])
    return ToolCall(
        id=f"{BFCL}:{row['id']}",
        instruction="\n".join([*system, _BFCL_INSTRUCTION, *map(_compact, tools)]),
        input=asked,
        output="\n".join(
            format_call(name, _first_allowed_arguments(arguments))
            for call in ground_truth
            for name, arguments in call.items()
        ),
        tools=tools,
        ground_truth=tuple(ground_truth),
    )


def _json_schema(value: Any) -> Any:
    """BFCL's Python type names as JSON Schema's, at any depth."""
    if isinstance(value, dict):
        return {
            key: _BFCL_TYPES.get(part, part) if key == "type" and isinstance(part, str) else _json_schema(part)
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
