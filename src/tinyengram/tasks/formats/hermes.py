"""``hermes``: tools and calls in tags inside the text, as Nous Research's Hermes writes them.

``conversations`` whose system turn holds ``<tools>[…]</tools>``, ``gpt`` turns with ``<tool_call>…</tool_call>`` (JSON,
or a Python literal as in the original data), role ``tool`` with ``<tool_response>…</tool_response>``. ``messages`` with
such text are read as well.

The system text keeps what stands before and after Hermes' own instruction, which goes from the sentence that first
names ``<tools>`` to the last ``</tool_call>``: the model's chat template lists the tools and says how to call them, and
would contradict it. Text around calls stays with them, what stands behind a call included.

Source: https://github.com/NousResearch/Hermes-Function-Calling
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from tinyengram.sources import Row
from tinyengram.tasks.conversations import Call, Conversation
from tinyengram.tasks.formats.builder import ConversationBuilder
from tinyengram.tasks.formats.messages import Message, messages_of
from tinyengram.tasks.formats.sharegpt import CALLING, is_only_result
from tinyengram.tasks.formats.tools import offered_tools, read_calls
from tinyengram.tasks.formats.values import MalformedError, field, json_or_python, shown

_TOOLS = re.compile(r"<tools>(.*?)</tools>", re.DOTALL)
_CALL = re.compile(r"<tool_call>(.*?)</tool_call>", re.DOTALL)
_RESPONSE = re.compile(r"<tool_response>(.*?)</tool_response>", re.DOTALL)
# From the heading or the sentence that first names <tools> to the last </tool_call> and the rest of its sentence.
_INSTRUCTION_BEGINS = re.compile(r"#+ Tools\b|(?:^|(?<=[.!?\n])) *[^\n.!?]*?<tools>")
_INSTRUCTION = re.compile(r"\A.*</tool_call>(?:[ \t]*XML tags[^\n]*)?|\A.*</tools>", re.DOTALL)


def read(row: Row) -> Conversation:
    """The conversation in a row; where its system turn lists no tools, they may stand under ``tools``.

    Raises:
        MalformedError: The row has another shape.
    """
    messages = list(messages_of(row.values))
    tools: list[Any] = []
    systems: list[tuple[str, str]] = []
    for what, text in [("'system'", field(row.values, "system", "")), *_system_texts(messages)]:
        text, listed = _system(text)
        systems.append((text, what))
        tools += listed
    chat = ConversationBuilder(row.location, offered_tools(tools, "<tools>") or offered_tools(row.values.get("tools")))
    chat.system(*systems.pop(0))
    for index, message in enumerate(messages):
        match message.speaker:
            case "system":
                chat.system(*systems.pop(0))
            case "user":
                chat.user(message.text, message.what)
            case "assistant":
                _add_assistant(chat, message)
            case "tool":
                _add_results(chat, message, alone=is_only_result(messages, index))
    return chat.conversation()


def _system_texts(messages: list[Message]) -> Iterator[tuple[str, str]]:
    for message in messages:
        if message.role == CALLING:
            raise MalformedError(f"{message.what} is a function_call turn, not hermes'; give format: sharegpt")
        if message.speaker == "system":
            yield message.what, message.text


def _system(text: str) -> tuple[str, list[Any]]:
    """The text without the instruction about tools, and the tools."""
    blocks = [block for block in _TOOLS.findall(text) if block.strip()]  # "<tools></tools>" merely names the tags
    begins = _INSTRUCTION_BEGINS.search(text)
    if not blocks or not begins:
        return text, []
    before, after = text[: begins.start()], text[begins.start() :]
    kept = (before.strip(), _INSTRUCTION.sub("", after, count=1).strip())
    return "\n".join(part for part in kept if part), [tool for block in blocks for tool in _listed(block)]


def _listed(block: str) -> list[Any]:
    """A list of tools, or one a line as Qwen's template prints them."""
    try:
        value = json_or_python(block, "<tools>")
    except MalformedError:
        lines = [line for line in block.splitlines() if line.strip()]
        if len(lines) < 2:
            raise
        return [json_or_python(line, "a line of <tools>") for line in lines]
    return value if isinstance(value, list) else [value]


def _add_assistant(chat: ConversationBuilder, message: Message) -> None:
    beside, blocks = _CALL.split(message.text)[::2], _CALL.findall(message.text)
    if any(tag in part for part in beside for tag in ("<tool_call>", "</tool_call>")):
        raise MalformedError(f"{message.what} opens or closes a <tool_call> without the other: {shown(message.text)}")
    calls = [call for block in blocks for call in _called(block, f"<tool_call> in {message.what}")]
    text = "\n".join(part.strip() for part in beside if part.strip()) if calls else message.text
    chat.assistant(text, calls, what=message.what, learnt=message.learnt)


def _called(block: str, what: str) -> list[Call]:
    """One call, a list of them, or one a line."""
    try:
        return read_calls(json_or_python(block, what), what)
    except MalformedError:
        lines = [line for line in block.splitlines() if line.strip()]
        if len(lines) < 2 or not all(line.strip().startswith("{") for line in lines):
            raise
        return [call for line in lines for call in read_calls(json_or_python(line, what), what)]


def _add_results(chat: ConversationBuilder, message: Message, *, alone: bool) -> None:
    """Each ``<tool_response>`` is a turn, its text what stands between the tags."""
    beside, blocks = _RESPONSE.split(message.text)[::2], _RESPONSE.findall(message.text)
    if not blocks:
        chat.results(message.text, message.what, alone=alone)
    elif outside := "".join(beside).strip():
        raise MalformedError(f"{message.what} has text beside its <tool_response>: {shown(outside)}")
    for block in blocks:
        chat.results(block.strip(), message.what, alone=alone and len(blocks) == 1)
