"""Read the calls in an answer, in whatever format a model was taught to write them.

================  ===================================================================================================
``functioncall``  ``<functioncall> {"name": …, "arguments": …}``: Glaive's, and what our ChatML data teaches
``hermes``        ``<tool_call>{"name": …, "arguments": …}</tool_call>``: Hermes, Qwen 2.5 and 3
``llama``         ``{"name": …, "parameters": …}``, several with ``;`` between, ``<|python_tag|>`` before: Llama 3
``mistral``       ``[TOOL_CALLS] [{"name": …, "arguments": …}]``, since v11 ``[TOOL_CALLS]name[ARGS]{…}``
``json``          OpenAI's objects, alone, in an array, under ``function`` or ``tool_calls``, fenced or bare
``python``        ``[f(a=1, b="x")]`` or ``f(a=1)``: ToolACE, Llama's zero-shot calls, BFCL
================  ===================================================================================================

What an engine that serves the format would not read is not read here either: such an answer is an attempt, but broken.
transformers' ``parse_response`` is not used: it raises on text behind a call, knows one format at a time and needs a
response template, which most tokenizers do not have.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Literal

from tinyengram.tasks.calls import marked_calls
from tinyengram.tasks.calls.json_calls import Found, inner_json, whole_json
from tinyengram.tasks.calls.python_calls import inner_python, whole_python
from tinyengram.tasks.calls.values import behind
from tinyengram.tasks.conversations import Call

CallFormat = Literal["functioncall", "hermes", "llama", "mistral", "json", "python"]


@dataclass(frozen=True)
class Read:
    """What an answer holds.

    Attributes:
        format: The format of its calls; None where nothing is an attempt at a call.
        calls: In the order written; empty where nothing is attempted, None where the attempt cannot be read.
        text: What is said beside the calls, without thoughts and special tokens; all of it where nothing was read.
    """

    format: CallFormat | None
    calls: tuple[Call, ...] | None
    text: str


_MARKED: dict[str, tuple[CallFormat, Callable[[str, int], Found]]] = {
    marked_calls.FUNCTIONCALL: ("functioncall", marked_calls.read_functioncall),
    marked_calls.TOOL_CALL: ("hermes", marked_calls.read_hermes),
    marked_calls.PYTHON_TAG: ("llama", marked_calls.read_llama),
    marked_calls.TOOL_CALLS: ("mistral", marked_calls.read_mistral),
}
_MARKER = re.compile("|".join(map(re.escape, _MARKED)))
_SPECIAL = re.compile(
    r"<\|(?!python_tag\|>)[^|<>\s]{1,64}\|>|<｜[^｜<>\s]{1,64}｜>|</?s>|<(?:pad|unk|bos|eos)>|<(?:start|end)_of_turn>"
)
_FENCE_INFO = re.compile(r"[\w+-]*(?=\s)")
_EMPTY_FENCE = re.compile(r"```\w*\s*```")


def read_calls(text: str, *, offered: Collection[str] = ()) -> Read:
    """Read the calls of one answer; never raises, and takes time linear in the answer's length.

    Marked calls are always an attempt; the first marker decides the format. Bare JSON is one if the answer is, or
    begins with, an object with a name and arguments (or parameters), and elsewhere if that name is offered. Python is
    one if the answer is a list of calls, or if a call of an offered name has lines to itself. So prose that mentions
    ``print(x)`` or shows JSON is no attempt, nor is a tool's description that is said again.

    Args:
        text: As generated, special tokens kept or skipped. A leading ``<think>…</think>`` is passed over.
        offered: Names of the functions that could be called.
    """
    said = _answer(text)
    body = _unfenced(said)
    # Before the markers, which may stand in the strings of a call that is the whole answer.
    whole = whole_json(body)
    if whole is not None:
        format, calls = whole
        return Read(format, None, said) if calls is None else Read(format, tuple(calls), "")
    code = whole_python(body, offered)
    if code:
        return Read("python", tuple(code), "")
    marker = _MARKER.search(said)
    if marker is not None:
        marked, read = _MARKED[marker[0]]
        return _beside(marked, said, read(said, marker.start()))
    inner = inner_json(said, offered)
    if inner is not None:
        return _beside(inner[0], said, inner[1])
    return _beside("python", said, inner_python(said, offered))


def _beside(format: CallFormat, said: str, found: Found) -> Read:
    """Calls with what is said around them; markers around an empty array attempt nothing."""
    if found is None:
        return Read(format, None, said)
    calls, spans = found
    if not calls:
        return Read(None, (), said)
    ends = [0, *(end for _, end in spans)]
    starts = [*(start for start, _ in spans), len(said)]
    around = (said[end:start].strip() for end, start in zip(ends, starts, strict=True))
    text = "\n".join(part for part in around if part)
    return Read(format, tuple(calls), _EMPTY_FENCE.sub("", text).strip())


def _answer(text: str) -> str:
    """The text without a leading thought, and without special tokens and white space at both ends."""
    text = text.strip()
    if text.startswith("<think>"):
        _, closed, rest = text.partition("</think>")
        text = rest if closed else text
    spans = [token.span() for token in _SPECIAL.finditer(text)]
    start, stop = 0, len(text)
    for before, after in spans:
        if text[start:before].strip():
            break
        start = after
    for before, after in reversed(spans):
        if before < start or text[after:stop].strip():
            break
        stop = before
    return text[start:stop].strip()


def _unfenced(said: str) -> str:
    """The inside of an answer that stands in a fence or in backticks; any other answer as it is."""
    if said.startswith("```") and said.endswith("```"):
        inner = said[3:-3]
        return inner[behind(_FENCE_INFO, inner, 0) :].strip()
    return said[1:-1] if said.startswith("`") and said.endswith("`") else said
