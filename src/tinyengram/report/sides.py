"""Calls side by side: what was asked and expected, what the base and each arm wrote, and what became of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pydantic import BaseModel

from tinyengram.report.kept import mismatch, read_asked, read_scores, why_missing
from tinyengram.report.respondents import Respondent
from tinyengram.report.texts import Shown, as_json, shown
from tinyengram.scoring.asked import AskedCall, AskedCalls, AskedMessage, AskedRequest, asked_file
from tinyengram.tasks.calls.judging import CallVerdict

_SHOWN = 80
"""Requests on a page at most."""
_BYTES = 370_000
"""Of HTML that they may take; with what stands around them the section stays below 400 kB."""
_LONGEST_TITLE, _LONGEST_NAME = 200, 100
_MESSAGES = 8
"""Messages that are shown of a long conversation: the last ones."""
# Limits that are tried in turn until everything fits: characters of a message, of all tools, of an answer.
_LIMITS = ((2000, 4000, 2000), (1200, 2000, 1200), (800, 1200, 800), (500, 800, 500), (300, 400, 300))
# What a request, a message, an answer and a column take in HTML besides their texts.
_CARD_BYTES, _MESSAGE_BYTES, _ANSWER_BYTES, _COLUMN_BYTES = 1100, 160, 230, 190


@dataclass(frozen=True)
class Said:
    """One message before the answer: who speaks and what, calls included."""

    who: str
    text: Shown


@dataclass(frozen=True)
class WrittenAnswer:
    """What one or more columns wrote, word for word the same.

    Attributes:
        columns: Their indices.
        text: What was generated.
        outcome: What it is, one of ``tasks.calls.judging.Outcome``, and what else is known of it.
        good: Whether it is what should be done.
    """

    columns: tuple[int, ...]
    text: Shown
    outcome: str
    good: bool


@dataclass(frozen=True)
class RequestCard:
    """A request for an answer.

    Attributes:
        id, at: Which, and its place among all.
        title: What the user said last.
        earlier: Messages that are left out before the first one shown.
        messages: What was said.
        tool_names, tools: Functions that are offered: by name, and their descriptions in JSON.
        expected: The calls that are right, one a line; empty where the right thing is to decline.
        allowed: BFCL's possible answers, in JSON; empty where there are none.
        should_decline: None of the offered tools fits.
        answers: What the columns wrote, the base's first.
        outcomes, good: For each column, as of its answer.
        differs: Outcomes differ between the arms (with one arm: from the base's).
        wrong: Some arm does not do what should be done.
    """

    id: str
    at: int
    title: Shown
    earlier: int
    messages: tuple[Said, ...]
    tool_names: tuple[str, ...]
    tools: Shown
    expected: Shown
    allowed: Shown
    should_decline: bool
    answers: tuple[WrittenAnswer, ...]
    outcomes: tuple[str, ...]
    good: tuple[bool, ...]
    differs: bool
    wrong: bool

    @property
    def size(self) -> int:
        """About the bytes that it takes in HTML."""
        texts = [self.title, self.tools, self.expected, self.allowed]
        texts += [message.text for message in self.messages] + [answer.text for answer in self.answers]
        names = sum(Shown(name).size for name in self.tool_names)
        around = _CARD_BYTES + len(self.messages) * _MESSAGE_BYTES + len(self.answers) * _ANSWER_BYTES
        return sum(text.size for text in texts) + names + around + len(self.outcomes) * _COLUMN_BYTES


@dataclass(frozen=True)
class CallsBySide:
    """What the partial ``calls.html`` shows.

    Attributes:
        columns: The base first.
        cards: Requests that want a call, then those that should be declined, each in the order of asking.
        asked: How many requests there are.
        reason: Why there is nothing to show, in a sentence.
    """

    columns: Sequence[Respondent]
    cards: Sequence[RequestCard] = ()
    asked: int = 0
    reason: str | None = None


class _Verdicts(BaseModel):
    """Judged answers, read without torch."""

    wanted: list[CallVerdict]
    unwanted: list[CallVerdict]


def calls_by_side(columns: Sequence[Respondent]) -> CallsBySide | None:
    """Put every column's generated answers beside each other.

    Args:
        columns: The base, and what is compared to it.

    Returns:
        None where no calls were asked for.

    Raises:
        TinyEngramError: A file is damaged; names it, and what to do.
    """
    files = [(column.folder, column.calls) for column in columns if column.calls is not None]
    if not files:
        return None
    columns = [column for column in columns if column.calls is not None]
    if len({asked_file(file) for _, file in files}) > 1:
        return CallsBySide(columns, reason="Not shown: not all of the models were asked the same.")
    if reason := why_missing(files):
        return CallsBySide(columns, reason=reason)
    asked = read_asked(AskedCalls, *files[0])
    requests = [(one, False) for one in asked.wanted] + [(one, True) for one in asked.unwanted]
    verdicts: list[list[CallVerdict]] = []
    for file in files:
        found = read_scores(_Verdicts, *file)
        if (len(found.wanted), len(found.unwanted)) != (len(asked.wanted), len(asked.unwanted)):
            raise mismatch(*file)
        verdicts.append([*found.wanted, *found.unwanted])
    cards: list[RequestCard] = []
    for limits in _LIMITS:
        cards = [
            _card(at, request, declines, [one[at] for one in verdicts], limits)
            for at, (request, declines) in enumerate(requests)
        ]
        if len(cards) <= _SHOWN and sum(card.size for card in cards) <= _BYTES:
            break
    return CallsBySide(columns, _that_fit(cards), asked=len(requests))


def _card(
    at: int, request: AskedRequest, declines: bool, verdicts: Sequence[CallVerdict], limits: tuple[int, int, int]
) -> RequestCard:
    of_message, of_tools, of_answer = limits
    said = [message.text for message in request.messages if message.role == "user"]
    good = tuple(one.outcome == ("declines in prose" if declines else "right call") for one in verdicts)
    outcomes = tuple(_outcome(one) for one in verdicts)
    alike: dict[str, list[int]] = {}
    for column, verdict in enumerate(verdicts):
        alike.setdefault(verdict.text, []).append(column)
    arms = slice(1 if len(verdicts) > 2 else 0, None)
    return RequestCard(
        id=request.id,
        at=at,
        title=shown(" ".join((said[-1] if said else request.id).split()), _LONGEST_TITLE),
        earlier=max(0, len(request.messages) - _MESSAGES),
        messages=tuple(Said(_who(one), shown(_words(one), of_message)) for one in request.messages[-_MESSAGES:]),
        tool_names=tuple(_name(tool) for tool in request.tools),
        tools=shown("\n".join(as_json(tool, indent=1) for tool in request.tools), of_tools),
        expected=shown(_written(request.expected), of_message),
        allowed=shown("\n".join(map(as_json, request.allowed)), of_message),
        should_decline=declines,
        answers=tuple(
            WrittenAnswer(tuple(who), shown(text, of_answer), outcomes[who[0]], good[who[0]])
            for text, who in alike.items()
        ),
        outcomes=outcomes,
        good=good,
        differs=len(set(outcomes[arms])) > 1,
        wrong=not all(good[1:] or good),
    )


def _outcome(verdict: CallVerdict) -> str:
    """An outcome, and of a call that is not right what is right in it."""
    if verdict.outcome == "wrong call" and verdict.functions:
        return "wrong call: right function, wrong arguments"
    if verdict.outcome == "call in another format" and verdict.content_right:
        return "call in another format, right but for it"
    return verdict.outcome


def _who(message: AskedMessage) -> str:
    return f"result of {message.name}" if message.role == "tool" and message.name else message.role


def _words(message: AskedMessage) -> str:
    return "\n".join(part for part in (message.text, _written(message.calls)) if part)


def _written(calls: Sequence[AskedCall]) -> str:
    return "\n".join(f"{call.name} {as_json(call.arguments)}" for call in calls)


def _name(tool: dict) -> str:
    described = tool.get("function") if isinstance(tool.get("function"), dict) else tool
    return str(shown(str((described or {}).get("name", "without a name")), _LONGEST_NAME))


def _that_fit(cards: Sequence[RequestCard]) -> list[RequestCard]:
    """As many as fit on the page: those whose outcomes differ before others, of each kind by turns."""
    of_kind = [[card for card in cards if card.should_decline is kind] for kind in (False, True)]
    ranked = [(place, card) for kind in of_kind for place, card in enumerate(sorted(kind, key=lambda c: not c.differs))]
    taken, size = [], 0
    for _, card in sorted(ranked, key=lambda one: one[0])[:_SHOWN]:
        size += card.size
        if size > _BYTES:
            break
        taken.append(card)
    return sorted(taken, key=lambda card: card.at)
