"""``openai``: chat messages with ``tool_calls``, as OpenAI, transformers and TRL write them.

``messages`` of ``role`` and ``content``; calls in ``tool_calls`` with ``arguments`` as JSON text (OpenAI) or an object
(transformers, TRL), or in the older ``function_call``; results in role ``tool`` or ``function``; ``tools`` or the older
``functions``. An assistant message with ``weight: 0`` is not learnt, as in OpenAI's fine-tuning; so in all
formats of messages.

Sources: https://platform.openai.com/docs/api-reference/chat and /docs/guides/fine-tuning;
https://huggingface.co/docs/trl/dataset_formats
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from tinyengram.sources import Row
from tinyengram.tasks.conversations import Call, Conversation
from tinyengram.tasks.formats.builder import ConversationBuilder
from tinyengram.tasks.formats.messages import Message, messages_of, rows_of
from tinyengram.tasks.formats.tools import offered_tools, read_call
from tinyengram.tasks.formats.values import MalformedError, json_or_value, shown, text_of, without_keys

_THOUGHTS = ("reasoning_content", "reasoning", "thinking")
_TAGGED_CALL = re.compile(r"<tool_call>\s*[\[{]")


def read(row: Row, *, as_said: bool = False) -> Conversation:
    """The conversation in a row.

    Args:
        row: Messages and tools.
        as_said: Calls that stand in an assistant's text stay there as text, as where a model goes on from what it said.

    Raises:
        MalformedError: The row has another shape.
    """
    offered = "tools" if row.values.get("tools") else "functions"
    chat = ConversationBuilder(row.location, offered_tools(row.values.get(offered), offered))
    for message in messages_of(row.values):
        _add(chat, message, as_said)
    return chat.conversation()


def _add(chat: ConversationBuilder, message: Message, as_said: bool) -> None:
    values, what = message.values, message.what
    without_keys(values, ("audio", "tools", "functions"), "give tools beside the messages, and only text is learnt")
    if message.speaker != "assistant":
        without_keys(values, ("tool_calls", "function_call"), "only the assistant calls functions")
    match message.speaker:
        case "system":
            chat.system(message.text, what)
        case "user":
            chat.user(message.text, what)
        case "tool":
            chat.result(
                _result(message),
                what=what,
                name=_optional(values, "name", what),
                call_id=_optional(values, "tool_call_id", what),
            )
        case "assistant":
            without_keys(values, _THOUGHTS, f"write it into the content of {what}, as the model shall, or drop the key")
            if not as_said and _TAGGED_CALL.search(message.text):
                raise MalformedError(f"{what} writes <tool_call> into its text; give format: hermes to read it")
            calls, ids = _calls(values, what)
            chat.assistant(message.text, calls, what=what, ids=ids, learnt=message.learnt)


def _calls(values: Mapping[str, Any], what: str) -> tuple[list[Call], list[str | None]]:
    listed = rows_of(json_or_value(values.get("tool_calls"), f"{what}.tool_calls"))
    if listed in (None, "", []):
        listed = []
    if not isinstance(listed, list):
        raise MalformedError(f"{what}.tool_calls must be a list of calls, not {shown(listed)}")
    calls = [read_call(call, f"{what}.tool_calls[{index}]") for index, call in enumerate(listed)]
    ids = [_optional(call, "id", f"{what}.tool_calls[{index}]") for index, call in enumerate(listed)]
    if older := json_or_value(values.get("function_call"), f"{what}.function_call"):
        calls.append(read_call(older, f"{what}.function_call"))
        ids.append(None)
    return calls, ids


def _result(message: Message) -> str:
    """A result's text; one given as an object is written as JSON, as templates that take objects do."""
    content = message.content
    parts = isinstance(content, list) and all(isinstance(part, dict) and "type" in part for part in content)
    if isinstance(content, dict) or (isinstance(content, list) and not parts):
        return json.dumps(content, ensure_ascii=False)
    return message.text


def _optional(values: Mapping[str, Any], key: str, what: str) -> str | None:
    value = values.get(key)
    return None if value in (None, "") else text_of(value, f"{what}.{key}")
