"""Conversations with tools: what every format of chat data is read into, and what every prompt is written from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

Role = Literal["system", "user", "assistant", "tool"]
Learn = Literal["all", "calls", "last"]


@dataclass(frozen=True)
class Call:
    """A function's name with its arguments, a JSON object."""

    name: str
    arguments: dict[str, Any]


@dataclass(frozen=True)
class Turn:
    """One message.

    Attributes:
        role: Who speaks; ``developer`` is read as ``system``, ``function`` as ``tool``.
        text: What is said; of a ``tool`` turn the result, as text.
        calls: Of an ``assistant`` turn: the functions that it calls, beside its text.
        name: Of a ``tool`` turn: the function whose result it is, where known.
        answers: Of a ``tool`` turn: which call of the conversation it answers, counted from 0 over all turns, where
            known.
        calls_in_text: How many calls stand in the text as they are written, where a format keeps them so.
    """

    role: Role
    text: str = ""
    calls: tuple[Call, ...] = ()
    name: str | None = None
    answers: int | None = None
    calls_in_text: int = 0

    @property
    def n_calls(self) -> int:
        """How many calls the turn makes, however they are kept."""
        return len(self.calls) + self.calls_in_text


@dataclass(frozen=True)
class Conversation:
    """Tools that are offered, turns, and which of them are learnt.

    Attributes:
        id: Where the row stands, ``file:line`` or ``name[index]``.
        turns: In order; a system turn only comes first.
        tools: Function descriptions ``{"name", "description", "parameters"}``, ``parameters`` a JSON Schema object.
        learnt: Indices of the assistant turns that are learnt, ascending. Empty where the right thing is unknown, as in
            BFCL's requests that no tool fits.
        ground_truth: BFCL's possible answers of the learnt turn: for each call ``{function: {argument: [allowed,
            …]}}``.
    """

    id: str
    turns: tuple[Turn, ...]
    tools: tuple[dict[str, Any], ...] = ()
    learnt: tuple[int, ...] = ()
    ground_truth: tuple[dict[str, Any], ...] = ()


def assistant_turns(conversation: Conversation, learn: Learn) -> tuple[int, ...]:
    """Indices of the assistant turns that ``learn`` names: all, those that call, or the last."""
    spoken = [index for index, turn in enumerate(conversation.turns) if turn.role == "assistant"]
    if learn == "calls":
        return tuple(index for index in spoken if conversation.turns[index].n_calls)
    return tuple(spoken[-1:] if learn == "last" else spoken)


def learning(conversation: Conversation, learn: Learn) -> Conversation:
    """The conversation with the turns that ``learn`` names marked as learnt."""
    return replace(conversation, learnt=assistant_turns(conversation, learn))


def request(text: str, *, tools: Sequence[dict[str, Any]] = (), system: str = "", id: str = "") -> Conversation:
    """A conversation that ends where an answer is wanted: an optional system turn and a user's request."""
    turns = (Turn("system", system),) if system else ()
    return Conversation(id, (*turns, Turn("user", text)), tuple(tools))


def system_text(conversation: Conversation) -> str:
    """What the system turn says; empty without one."""
    first = conversation.turns[:1]
    return first[0].text if first and first[0].role == "system" else ""


def user_request(conversation: Conversation) -> str:
    """What the user says last before the first learnt turn, or at all where none is learnt; empty without a user."""
    until = conversation.learnt[0] if conversation.learnt else len(conversation.turns)
    said = [turn.text for turn in conversation.turns[:until] if turn.role == "user"]
    return said[-1] if said else ""
