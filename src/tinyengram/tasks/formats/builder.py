"""A conversation put together turn by turn, with each result given to the call that it answers."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from tinyengram.tasks.conversations import Call, Conversation, Turn
from tinyengram.tasks.formats.tools import without_fillers
from tinyengram.tasks.formats.values import MalformedError, shown, text_of


@dataclass(frozen=True)
class _Asked:
    """A call that was made: its number in the conversation, its id and whether a result came."""

    number: int
    name: str
    id: str | None
    answered: bool = False


@dataclass
class ConversationBuilder:
    """Turns as they are read.

    A result is given to the call whose id it names. One that names none is given to a call of the last assistant turn
    that called and has no result yet: the first of its function where it names one, else the first.
    """

    id: str
    tools: tuple[dict[str, Any], ...] = ()
    turns: list[Turn] = field(default_factory=list)
    not_learnt: set[int] = field(default_factory=set)
    _asked: list[_Asked] = field(default_factory=list)
    _open_from: int = 0

    def system(self, text: Any, what: str) -> None:
        """Add system text; several system turns at the start become one, a line break between them.

        Raises:
            MalformedError: The chat has begun: no template writes a system turn there for every model.
        """
        text = text_of(text, what)
        if not self.turns:
            if text:
                self.turns.append(Turn("system", text))
        elif [turn.role for turn in self.turns] == ["system"]:
            self.turns = [Turn("system", "\n".join(part for part in (self.turns[0].text, text) if part))]
        else:
            raise MalformedError(f"{what} is system text after the chat began; move it to the front: {shown(text)}")

    def user(self, text: Any, what: str) -> None:
        """Add a user's turn."""
        self.turns.append(Turn("user", text_of(text, what)))

    def assistant(
        self,
        text: Any,
        calls: Sequence[Call] = (),
        *,
        what: str,
        ids: Sequence[str | None] = (),
        learnt: bool = True,
    ) -> None:
        """Add an assistant's turn.

        Args:
            text: What it says.
            calls: What it calls; null arguments that their functions do not know are left out.
            what: Its name in messages.
            ids: Of the calls, where the format has them.
            learnt: False where the row says that the turn shall not be learnt.
        """
        if not learnt:
            self.not_learnt.add(len(self.turns))
        calls = tuple(without_fillers(call, self.tools) for call in calls)
        self.turns.append(Turn("assistant", text_of(text, what), calls))
        if calls:
            self._open_from = len(self._asked)
            ids = ids or [None] * len(calls)
            for call, call_id in zip(calls, ids, strict=True):
                self._asked.append(_Asked(len(self._asked), call.name, call_id))

    def result(self, text: Any, *, what: str, name: str | None = None, call_id: str | None = None) -> None:
        """Add a call's result.

        Raises:
            MalformedError: It names an id that no call before it has.
        """
        asked = self._with_id(call_id, what) if call_id is not None else self._next_open(name)
        if asked:
            self._asked[asked.number] = replace(asked, answered=True)
        self.turns.append(
            Turn(
                "tool",
                text_of(text, what),
                name=name or (asked.name if asked else None),
                answers=asked.number if asked else None,
            )
        )

    def results(self, text: Any, what: str, *, alone: bool) -> None:
        """Add a result from a format that has no ids, where one turn may hold the results of all calls.

        JSON that names a called function says whose result it is. A list with an item for each call that waits becomes
        a turn for each. Text that may belong to any of several calls is nobody's result.

        Args:
            text: What the function returned.
            what: Its name in messages.
            alone: No other result follows, so that it must be that of every call that waits.
        """
        text = text_of(text, what)
        waiting = [asked for asked in self._asked[self._open_from :] if not asked.answered]
        value = _json_in(text)
        if (
            isinstance(value, list)
            and len(value) == len(waiting)
            and (all(self.called(item) for item in value) or (alone and len(value) > 1))
        ):
            for item in value:
                part = item if isinstance(item, str) else json.dumps(item, ensure_ascii=False)
                self.result(part, what=what, name=self.called(item))
        elif (name := self.called(value)) or len(waiting) == 1 or not alone:
            self.result(text, what=what, name=name)
        else:
            self.turns.append(Turn("tool", text))

    def called(self, value: Any) -> str | None:
        """The called function that a result names under ``name``; a name of anything else is part of the result."""
        name = value.get("name") if isinstance(value, dict) else None
        return name if any(asked.name == name for asked in self._asked) else None

    def conversation(self) -> Conversation:
        """The conversation; ``learnt`` are the assistant turns that the row lets be learnt."""
        spoken = (index for index, turn in enumerate(self.turns) if turn.role == "assistant")
        return Conversation(
            self.id,
            tuple(self.turns),
            self.tools,
            tuple(index for index in spoken if index not in self.not_learnt),
        )

    def _with_id(self, call_id: str, what: str) -> _Asked | None:
        alike = [asked for asked in self._asked if asked.id == call_id]
        if not alike:
            known = ", ".join(shown(asked.id) for asked in self._asked if asked.id) or "none"
            raise MalformedError(f"{what} answers the call {shown(call_id)}, which no turn before it made ({known})")
        # Many files begin to count anew in every turn, so that the latest call of that id is meant.
        latest = [asked for asked in alike if asked.number >= self._open_from] or alike[-1:]
        return next((asked for asked in latest if not asked.answered), latest[-1])

    def _next_open(self, name: str | None) -> _Asked | None:
        waiting = [asked for asked in self._asked[self._open_from :] if not asked.answered]
        if name is not None:
            waiting = [asked for asked in waiting if asked.name == name]
        return waiting[0] if waiting else None


def _json_in(text: str) -> Any:
    try:
        return json.loads(text) if text.lstrip()[:1] in ("[", "{") else None
    except (ValueError, RecursionError):
        return None
