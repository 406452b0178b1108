"""A conversation as the messages that a chat template takes: with calls as such, or with everything written as text."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from tinyengram.tasks.conversations import Conversation, Turn

# Hermes' words (NousResearch, Hermes-Function-Calling), which most models have read.
_TOOLS_OFFERED = (
    "You may call one or more functions to assist with the user query. You are provided with function signatures "
    "within <tools></tools> XML tags:\n<tools>\n{tools}\n</tools>\n\nFor each function call, return a JSON object with "
    "function name and arguments within <tool_call></tool_call> XML tags:\n<tool_call>\n"
    '{{"name": <function-name>, "arguments": <args-json-object>}}\n</tool_call>'
)


@dataclass(frozen=True)
class Chat:
    """What a chat template renders.

    Attributes:
        messages: As transformers takes them, with ``role``, ``content`` and what belongs to calls.
        tools: JSON Schemas in ``{"type": "function", "function": …}``; None where none are offered.
        before: For each turn of the conversation, and for its end: how many of ``messages`` come before it.
    """

    messages: list[dict[str, Any]]
    tools: list[dict[str, Any]] | None
    before: list[int]

    def until(self, turn: int | None) -> list[dict[str, Any]]:
        """The messages before a turn (None: all)."""
        return self.messages[: self.before[-1 if turn is None else turn]]


def with_calls(conversation: Conversation, *, system_turn: bool = True) -> Chat:
    """The conversation for a template that writes tools, calls and results.

    What templates stumble over is made even: arguments are objects, ``content`` is always text, ``tool_calls`` is
    absent where there are none, and a call and its result bear the same id. Mistral's templates want nine letters or
    digits; counted ones are the same for every prefix of a conversation, and a model that must write them can.

    Args:
        conversation: Whatever its format was.
        system_turn: Whether the template takes one; else its text opens the first user turn.
    """
    messages: list[dict[str, Any]] = []
    before: list[int] = []
    made = 0
    unanswered: list[tuple[int, str]] = []
    for turn in conversation.turns:
        before.append(len(messages))
        if turn.role == "system" and not turn.text.strip():
            continue
        message: dict[str, Any] = {"role": turn.role, "content": turn.text}
        if turn.calls:
            message["tool_calls"] = [
                {
                    "id": _call_id(made + index),
                    "type": "function",
                    "function": {"name": call.name, "arguments": call.arguments},
                }
                for index, call in enumerate(turn.calls)
            ]
            unanswered = [(made + index, call.name) for index, call in enumerate(turn.calls)]
            made += len(turn.calls)
        elif turn.role == "tool":
            number, name = _answered(turn, unanswered, made)
            unanswered = [one for one in unanswered if one[0] != number]
            message["tool_call_id"] = _call_id(number)
            if name is not None:
                message["name"] = name
        messages.append(message)
    before.append(len(messages))
    tools = [_wrapped(tool) for tool in conversation.tools] or None
    return _fitted(Chat(messages, tools, before), system_turn)


def as_text(conversation: Conversation, *, system_turn: bool = True) -> Chat:
    """The conversation for a template that loses or refuses calls: nothing but text, in Hermes' words.

    Tools stand in the system text, calls in the assistant's; results are user turns, several in a row one.

    Args:
        conversation: Whatever its format was.
        system_turn: Whether the template takes one; else its text opens the first user turn.
    """
    system = [turn.text for turn in conversation.turns if turn.role == "system" and turn.text.strip()]
    if conversation.tools:
        offered = "\n".join(_compact(_wrapped(tool)) for tool in conversation.tools)
        system.append(_TOOLS_OFFERED.format(tools=offered))
    messages: list[dict[str, Any]] = [{"role": "system", "content": "\n\n".join(system)}] if system else []
    before: list[int] = []
    previous = None
    for turn in conversation.turns:
        before.append(len(messages))
        if turn.role == "tool":
            result = f"<tool_response>\n{turn.text}\n</tool_response>"
            if previous == "tool":
                messages[-1] = {"role": "user", "content": f"{messages[-1]['content']}\n{result}"}
            else:
                messages.append({"role": "user", "content": result})
        elif turn.role != "system":
            calls = [
                f"<tool_call>\n{_compact({'name': call.name, 'arguments': call.arguments})}\n</tool_call>"
                for call in turn.calls
            ]
            messages.append({"role": turn.role, "content": "\n".join([turn.text, *calls] if turn.text else calls)})
        previous = turn.role
    before.append(len(messages))
    return _fitted(Chat(messages, None, before), system_turn)


def _fitted(chat: Chat, system_turn: bool) -> Chat:
    """The chat, with the system text at the head of the first user turn where a template takes no system turn."""
    if system_turn or not chat.messages or chat.messages[0]["role"] != "system":
        return chat
    system, *rest = chat.messages
    if not rest or rest[0]["role"] != "user":
        return Chat([{"role": "user", "content": system["content"]}, *rest], chat.tools, chat.before)
    opening = {**rest[0], "content": f"{system['content']}\n\n{rest[0]['content']}"}
    return Chat([opening, *rest[1:]], chat.tools, [max(count - 1, 0) for count in chat.before])


def _answered(turn: Turn, unanswered: list[tuple[int, str]], made: int) -> tuple[int, str | None]:
    """Which call a result answers, and its function: as stated, else by name, else the first without a result."""
    if turn.answers is not None:
        return turn.answers, turn.name or dict(unanswered).get(turn.answers)
    by_name = [one for one in unanswered if turn.name in (None, one[1])]
    if not unanswered:
        return max(made - 1, 0), turn.name
    number, name = (by_name or unanswered)[0]
    return number, turn.name or name


def _call_id(number: int) -> str:
    return f"call{number:05d}"


def _wrapped(tool: dict[str, Any]) -> dict[str, Any]:
    return tool if isinstance(tool.get("function"), dict) else {"type": "function", "function": tool}


def _compact(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)
