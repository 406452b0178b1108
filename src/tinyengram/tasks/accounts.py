"""An account of data that was read: what is learnt of each row, turn and call, and why the rest is not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from tinyengram.sources import Provenance
from tinyengram.tasks.conversations import Conversation, Learn, Turn, assistant_turns
from tinyengram.tasks.left_out import LeftOut, LeftOutCounts, What


@dataclass
class ChatData:
    """Conversations with an account in which everything adds up.

    ``rows`` is ``len(conversations)`` and the rows left out; the assistant's turns, and the calls, of the rows that
    could be read are those learnt and those left out.

    Attributes:
        format: How the rows are written.
        rows: All that there are.
        conversations: Each with at least one turn that is learnt.
        learnt_turns, learnt_calls: In ``conversations``.
        left_out: What is not learnt, by kind and reason, in the order of its first case.
        remarks: What is learnt but may not be meant, in sentences.
        provenance: Where the rows came from.
    """

    format: str
    rows: int
    conversations: list[Conversation]
    learnt_turns: int
    learnt_calls: int
    left_out: list[LeftOut]
    remarks: list[str]
    provenance: Provenance


@dataclass
class Account:
    """What became of each row so far.

    Attributes:
        format: How the rows are written.
        learn: Which turns are learnt.
        rows: That were read.
        conversations, turns, calls: That are learnt.
    """

    format: str
    learn: Learn
    rows: int = 0
    conversations: int = 0
    turns: int = 0
    calls: int = 0
    _left_out: LeftOutCounts = field(default_factory=LeftOutCounts)
    _not_offered: tuple[int, str] = (0, "")

    def leave_out(self, what: What, reason: str, where: str, count: int = 1) -> None:
        """Count what is not learnt."""
        self._left_out.add(what, reason, where, count)

    def add(self, conversation: Conversation) -> Conversation | None:
        """Mark what is learnt of a conversation; None where nothing is, which is counted with its reason."""
        wanted = assistant_turns(conversation, self.learn)
        learnt = []
        for index, turn in enumerate(conversation.turns):
            if turn.role != "assistant":
                continue
            if reason := self._why_not(turn, index, conversation.learnt, wanted):
                self.leave_out("turns", reason, conversation.id)
                self.leave_out("calls", reason, conversation.id, turn.n_calls)
            else:
                learnt.append(index)
                self.turns += 1
                self.calls += turn.n_calls
        if learnt:
            self.conversations += 1
            self._remark(conversation)
            return replace(conversation, learnt=tuple(learnt))
        if not any(turn.role == "assistant" for turn in conversation.turns):
            self.leave_out("rows", "no assistant turn", conversation.id)
        else:
            self.leave_out("rows", f"no turn to learn (learn: {self.learn})", conversation.id)
        return None

    def left_out(self) -> list[LeftOut]:
        """Everything that was counted."""
        return self._left_out.listed()

    def remarks(self) -> list[str]:
        """What is learnt but may not be meant, in sentences."""
        count, first = self._not_offered
        return [f"Calls of functions that their rows do not offer: {count}, first at {first}."] if count else []

    def data(self, conversations: list[Conversation], provenance: Provenance) -> ChatData:
        """The account with what was read."""
        return ChatData(
            format=self.format,
            rows=self.rows,
            conversations=conversations,
            learnt_turns=self.turns,
            learnt_calls=self.calls,
            left_out=self.left_out(),
            remarks=self.remarks(),
            provenance=provenance,
        )

    def _why_not(self, turn: Turn, index: int, allowed: Sequence[int], wanted: Sequence[int]) -> str | None:
        if not turn.text.strip() and not turn.calls:
            return "the turn says and calls nothing"
        if index not in allowed:
            return "the row gives the turn weight 0"
        return None if index in wanted else f"not among the turns of learn: {self.learn}"

    def _remark(self, conversation: Conversation) -> None:
        offered = {tool.get("name") for tool in conversation.tools}
        unknown = sum(call.name not in offered for turn in conversation.turns for call in turn.calls)
        if unknown:
            count, first = self._not_offered
            self._not_offered = (count + unknown, first or conversation.id)
