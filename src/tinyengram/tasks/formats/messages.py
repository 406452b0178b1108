"""The list of messages in a row, as ``messages`` or ``conversations``, whatever the messages' keys are called."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from tinyengram.tasks.conversations import Role
from tinyengram.tasks.formats.values import MalformedError, json_or_value, names, shown, text_of, without_keys

KEYS = ("messages", "conversations")
_ROLES: dict[str, Role] = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "human": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "model": "assistant",
    "tool": "tool",
    "function": "tool",
    "observation": "tool",
    "function_response": "tool",
}
_MUST_SPEAK = ("system", "developer", "user", "human")  # an assistant may only call, a function return nothing
_TEXT_PARTS = ("text", "input_text", "output_text")
_MEDIA = ("images", "image", "audios", "audio", "videos", "video")


@dataclass(frozen=True)
class Message:
    """One message: its role as written, what it holds and its name in errors."""

    role: str
    values: Mapping[str, Any]
    what: str

    @property
    def speaker(self) -> Role:
        """The role in our words.

        Raises:
            MalformedError: It is none that we know.
        """
        if self.role not in _ROLES:
            raise MalformedError(f"{self.what} has the unknown role {shown(self.role)}; known are {', '.join(_ROLES)}")
        return _ROLES[self.role]

    @property
    def content(self) -> Any:
        """What it says: ``content``, or ``value`` where ShareGPT's keys are used."""
        return self.values.get("value") if self.values.get("content") is None else self.values["content"]

    @property
    def text(self) -> str:
        """What it says, as text: null is none, and text parts are joined as chat templates join them.

        Raises:
            MalformedError: It is neither text nor text parts: an image for example.
        """
        content = self.content
        if content is None and self.role not in _MUST_SPEAK:
            return ""
        if isinstance(content, list):
            return "".join(_part(part, f"{self.what}.content[{index}]") for index, part in enumerate(content))
        return text_of(content, f"the text of {self.what}")

    @property
    def learnt(self) -> bool:
        """Whether the row lets this message be learnt: not where it gives it a ``weight`` of 0.

        Raises:
            MalformedError: The weight is neither 0 nor 1.
        """
        weight = self.values.get("weight")
        if weight is None or weight in (0, 1):
            return weight != 0
        raise MalformedError(f"{self.what}.weight must be 0 (not learnt) or 1, not {shown(weight)}")


def messages_of(values: Mapping[str, Any]) -> Iterator[Message]:
    """Messages of a row.

    ``messages`` and ``conversations`` may be JSON text, or (``datasets``' old way to store a list of objects) one
    object of lists.

    Raises:
        MalformedError: There is no such list, or a message is no object or names no role.
    """
    without_keys(values, _MEDIA, "only text is learnt; leave the row out")
    key = next((key for key in KEYS if values.get(key) is not None), None)
    if key is None:
        raise MalformedError(f"needs 'messages' or 'conversations', has the keys {names(values)}")
    listed = rows_of(json_or_value(values[key], repr(key)))
    if not isinstance(listed, list):
        raise MalformedError(f"{key!r} must be a list of messages, not {shown(listed)}")
    for index, message in enumerate(listed):
        what = f"{key}[{index}]"
        if not isinstance(message, dict):
            raise MalformedError(f"{what} must be an object, not {shown(message)}")
        role = message.get("role") or message.get("from")
        if not isinstance(role, str):
            raise MalformedError(f"{what} needs 'role' or 'from', who speaks: {shown(message)}")
        yield Message(role, message, what)


def rows_of(value: Any) -> Any:
    """One object of equally long lists as a list of objects; anything else as it is."""
    if isinstance(value, dict) and value and all(isinstance(column, list) for column in value.values()):
        lengths = {len(column) for column in value.values()}
        if len(lengths) == 1:
            return [dict(zip(value, row, strict=True)) for row in zip(*value.values(), strict=True)]
    return value


def _part(part: Any, what: str) -> str:
    kind = part.get("type") if isinstance(part, dict) else None
    if kind not in _TEXT_PARTS:
        found = f"of type {shown(kind)}" if kind else shown(part)
        raise MalformedError(f"{what} is {found}; only text parts are learnt: leave the row out or give its text")
    return text_of(part.get("text"), f"{what}.text")
