"""What an answer is: a right call, a wrong one, or which of the other things that a model can say instead."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

from pydantic import BaseModel

from tinyengram.tasks.calls.allowed import arguments_allowed
from tinyengram.tasks.calls.degeneration import is_degenerate
from tinyengram.tasks.calls.reading import CallFormat, read_calls
from tinyengram.tasks.conversations import Call

Outcome = Literal[
    "right call", "wrong call", "broken call", "call in another format", "declines in prose", "empty", "degenerate"
]

# ToolACE and SmolLM2 are taught to say so that nothing is to be called.
_NO_CALLS = re.compile(r"\[\s*\]")


class CallVerdict(BaseModel):
    """One generated answer, judged.

    Attributes:
        id: Of the request.
        text: What was generated.
        outcome: What it is, one of seven: a ``right call`` or ``wrong call`` in the taught format; a ``broken call``,
            meant as one in any format, that cannot be read; a readable ``call in another format``, right or not; and
            without a call, ``empty`` (white space and special tokens), ``degenerate`` (a loop, hardly a letter), or
            else ``declines in prose``, an empty array of calls included.
        format: The format of its calls, readable or broken; None without any.
        functions: The right functions are called, each as often as it should be, in whatever format.
        content_right: They are called with the right arguments, in whatever format. Where no call is wanted, no call
            is right.
    """

    id: str
    text: str
    outcome: Outcome
    format: CallFormat | None
    functions: bool
    content_right: bool


def judge(
    text: str,
    *,
    id: str,
    wanted: Sequence[Call],
    ground_truth: Sequence[Mapping[str, Any]] = (),
    tools: Sequence[Mapping[str, Any]] = (),
    taught: CallFormat = "functioncall",
) -> CallVerdict:
    """Judge one generated answer; parallel calls may come in any order.

    With a ``ground_truth`` a call is right as BFCL defines it, see :mod:`tinyengram.tasks.calls.allowed`. Without, it
    is right if it has a wanted call's name and equal arguments: numbers by value (``1`` is ``1.0``, but not ``true``),
    strings character for character, objects and arrays part by part. Leaving an argument out is not the same as null.

    Args:
        text: As generated.
        id: Of the request.
        wanted: The calls that are right; none where the right thing is not to call.
        ground_truth: BFCL's possible answers, ``{function: {argument: [allowed, …]}}`` for each call. They count
            instead of ``wanted``.
        tools: Function descriptions, ``{"name", "parameters"}``, alone or under ``function``, with JSON Schema's names
            of types or BFCL's.
        taught: The format that the model was taught.
    """
    described = {tool["name"]: tool for tool in (tool.get("function", tool) for tool in tools) if "name" in tool}
    truth = [(name, allowed) for possible in ground_truth for name, allowed in possible.items()]
    names = Counter([name for name, _ in truth] if truth else [call.name for call in wanted])
    read = read_calls(text, offered={*described, *names})
    calls = read.calls or ()
    functions = bool(calls) and Counter(call.name for call in calls) == names

    def fits(made: int, due: int) -> bool:
        call = calls[made]
        if not truth:
            return call.name == wanted[due].name and same_value(call.arguments, wanted[due].arguments)
        name, allowed = truth[due]
        parameters = described[name].get("parameters") if name in described else None
        return call.name == name and arguments_allowed(call.arguments, allowed, parameters)

    right = functions and can_be_paired(len(calls), fits)
    outcome: Outcome
    if read.format is None:
        outcome = _without_a_call(read.text)
    elif read.calls is None:
        outcome = "broken call"
    elif read.format != taught:
        outcome = "call in another format"
    else:
        outcome = "right call" if right else "wrong call"
    return CallVerdict(id=id, text=text, outcome=outcome, format=read.format, functions=functions, content_right=right)


def calls_or_is_empty(text: str) -> bool:
    """Whether an answer calls, or means to, in whatever format, or says nothing."""
    read = read_calls(text)
    return read.format is not None or not read.text


def _without_a_call(said: str) -> Literal["empty", "degenerate", "declines in prose"]:
    if not said:
        return "empty"
    if _NO_CALLS.fullmatch(said):
        return "declines in prose"
    return "degenerate" if is_degenerate(said) else "declines in prose"


def can_be_paired(count: int, fits: Callable[[int, int], bool]) -> bool:
    """Whether as many calls as truths can be paired one to one so that each pair fits.

    Where a call fits several truths, giving it to the first can leave another call without any; so this is a matching
    in a graph (Hopcroft and Karp 1973) and not a search over orders, which are 3.6 million for ten calls.
    """
    if count == 1:
        return fits(0, 0)
    from scipy.sparse import csr_matrix
    from scipy.sparse.csgraph import maximum_bipartite_matching

    fitting = csr_matrix([[fits(made, due) for due in range(count)] for made in range(count)])
    return bool((maximum_bipartite_matching(fitting) >= 0).all())


def same_value(one: Any, other: Any) -> bool:
    """Whether two JSON values are equal, at any depth: numbers by value, true and false unlike any number."""
    pairs = [(one, other)]
    while pairs:
        one, other = pairs.pop()
        if isinstance(one, dict) and isinstance(other, dict):
            if one.keys() != other.keys():
                return False
            pairs += [(part, other[key]) for key, part in one.items()]
        elif isinstance(one, list | tuple) and isinstance(other, list | tuple):
            if len(one) != len(other):
                return False
            pairs += zip(one, other, strict=True)
        elif isinstance(one, bool) != isinstance(other, bool) or one != other:
            return False
    return True
