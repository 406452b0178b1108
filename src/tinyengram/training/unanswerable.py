"""Prompts to which a call is the wrong answer, made of the training data alone, in four kinds."""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, get_args

from tinyengram.tasks.calls.reading import read_calls
from tinyengram.tasks.conversations import Conversation, request, system_text, user_request
from tinyengram.tasks.rendering import Renderer
from tinyengram.training.settings import HELD, HoldKind

_THE_SAME = 0.5  # Likeness of two tools' words from which on they are taken for one tool under two names.
_COMMON = 0.05  # Share of tools above which a word of their names (get, calculate) tells nothing of what they do.


@dataclass(frozen=True)
class HeldPrompt:
    """A prompt on which a model is held to its base.

    Attributes:
        ids: Token ids.
        kind: What it is; None: one of the user's own.
        bare: The same request without tools, for a base that itself calls where it should not; None: there is none.
    """

    ids: list[int]
    kind: HoldKind | None = None
    bare: list[int] | None = None


def unanswerable_prompts(
    conversations: Sequence[Conversation],
    renderer: Renderer,
    *,
    shares: Mapping[HoldKind, float] = HELD,
    max_length: int = 2048,
    limit: int = 64,
    seed: int = 42,
) -> list[HeldPrompt]:
    """Prompts to which a call is the wrong answer.

    Args:
        conversations: Training examples only.
        renderer: Writes them as they are trained.
        shares: How much of each kind; what is not named is left out.
        max_length: Longer prompts are left out.
        limit: Most prompts.
        seed: Of the choice.

    Returns:
        At most ``limit`` prompts, the kinds mixed evenly; fewer where the data have no more.

    Raises:
        TaskError: The chat template refuses a request.
    """
    chosen = [conversation for conversation in conversations if user_request(conversation)]
    random.Random(seed).shuffle(chosen)
    made: dict[HoldKind, Iterator[HeldPrompt]] = {
        kind: _of_kind(kind, chosen, renderer, max_length) for kind in get_args(HoldKind) if shares.get(kind, 0) > 0
    }
    prompts: list[HeldPrompt] = []
    taken = dict.fromkeys(made, 0)
    while made and len(prompts) < limit:
        whole = sum(shares[kind] for kind in made)
        # The kind that lags behind its share most.
        kind = max(made, key=lambda kind: shares[kind] / whole * (len(prompts) + 1) - taken[kind])
        found = next(made[kind], None)
        if found is None:
            del made[kind]
            continue
        taken[kind] += 1
        prompts.append(found)
    return prompts


def _of_kind(
    kind: HoldKind, conversations: Sequence[Conversation], renderer: Renderer, max_length: int
) -> Iterator[HeldPrompt]:
    """All prompts of one kind that are short enough."""
    asked: dict[HoldKind, Callable[[Sequence[Conversation]], Iterator[tuple[Conversation, int | None]]]] = {
        "no_tools": _without_tools,
        "other_tools": _with_anothers,
        "own_tools_without": _without_the_called,
        "after_result": _after_results,
    }

    def written(conversation: Conversation, turn: int | None) -> list[int]:
        return renderer.tokenizer(renderer.prompt(conversation, turn), add_special_tokens=False)["input_ids"]

    for conversation, turn in asked[kind](conversations):
        ids = written(conversation, turn)
        if len(ids) <= max_length:
            offering = kind in ("other_tools", "own_tools_without")
            bare = written(request(user_request(conversation)), None) if offering else None
            yield HeldPrompt(ids, kind, bare)


def _without_tools(conversations: Sequence[Conversation]) -> Iterator[tuple[Conversation, None]]:
    for conversation in conversations:
        asked = request(user_request(conversation))
        until = conversation.learnt[0] if conversation.learnt else None
        # What the data teach to answer is not held to the base's answer.
        if until is None or (asked.turns, asked.tools) != (conversation.turns[:until], conversation.tools):
            yield asked, None


def _with_anothers(conversations: Sequence[Conversation]) -> Iterator[tuple[Conversation, None]]:
    tools = _Tools(conversations)
    for index, conversation in enumerate(conversations):
        called = _called(conversation)
        for other in (*conversations[index + 1 :], *conversations[:index]):
            same = (system_text(other), other.tools) == (system_text(conversation), conversation.tools)
            if not same and not any(tools.may_answer(str(tool.get("name")), called) for tool in other.tools):
                yield request(user_request(conversation), tools=other.tools, system=system_text(other)), None
                break


def _without_the_called(conversations: Sequence[Conversation]) -> Iterator[tuple[Conversation, None]]:
    tools = _Tools(conversations)
    for conversation in conversations:
        called = _called(conversation)
        if not called or not conversation.tools:
            continue
        left = [tool for tool in conversation.tools if tool.get("name") not in called]
        left = left or tools.most_like(called, len(conversation.tools))
        if left:
            yield request(user_request(conversation), tools=left, system=system_text(conversation)), None


def _after_results(conversations: Sequence[Conversation]) -> Iterator[tuple[Conversation, int]]:
    for conversation in conversations:
        for index in range(1, len(conversation.turns)):
            before, turn = conversation.turns[index - 1 : index + 1]
            plain = before.role == "tool" and turn.role == "assistant" and not turn.n_calls
            if plain and index not in conversation.learnt:  # As without tools.
                yield conversation, index


class _Tools:
    """All tools of some conversations, by name, and which of them do the same.

    Data name one function in several ways (``sum`` and ``calculate_sum``), and a tool that answers the request after
    all would make a refusal the wrong lesson. So a tool counts as the same where a telling word of its name is the
    same, or half of all words of name and description: rather an easier prompt than a wrong one.
    """

    def __init__(self, conversations: Sequence[Conversation]) -> None:
        self._tools = {str(tool.get("name")): tool for one in conversations for tool in one.tools}
        self._words = {name: _words(f"{name} {tool.get('description', '')}") for name, tool in self._tools.items()}
        named = {name: _words(name) for name in self._tools}
        count = Counter(word for words in named.values() for word in words)
        most = max(2, _COMMON * len(named))
        self._telling = {name: {word for word in words if count[word] <= most} for name, words in named.items()}

    def may_answer(self, name: str, called: set[str]) -> bool:
        """Whether a tool may do what one of the called functions does."""
        telling, words = self._telling.get(name, set()), self._words.get(name, set())
        return name in called or any(
            telling & self._telling.get(one, set()) or _likeness(words, self._words.get(one, set())) >= _THE_SAME
            for one in called
        )

    def most_like(self, called: set[str], count: int) -> list[dict[str, Any]]:
        """Those that are described most like the called functions and do something else."""
        wanted = set().union(*(self._words.get(name, set()) for name in called))
        others = [name for name in self._tools if not self.may_answer(name, called)]
        others.sort(key=lambda name: (-_likeness(self._words[name], wanted), name))
        return [self._tools[name] for name in others[:count]]


def _called(conversation: Conversation) -> set[str]:
    """Names of the functions that the first learnt turn calls."""
    if not conversation.learnt:
        return set()
    turn = conversation.turns[conversation.learnt[0]]
    calls = turn.calls or read_calls(turn.text, offered=[str(tool.get("name")) for tool in conversation.tools]).calls
    return {call.name for call in calls or ()}


def _words(text: str) -> set[str]:
    return set(re.findall(r"[a-z]{3,}", re.sub(r"(?<=[a-z])(?=[A-Z])", " ", text).lower()))


def _likeness(one: set[str], other: set[str]) -> float:
    """Shared words over all words (Jaccard)."""
    return len(one & other) / len(one | other) if one | other else 0.0
