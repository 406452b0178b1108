"""Prompts to which a call is the wrong answer, made of the training data alone, in four kinds."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, get_args

from tinyengram.tasks.calls.reading import read_calls
from tinyengram.tasks.conversations import Conversation, request, system_text, user_request
from tinyengram.tasks.rendering import Renderer
from tinyengram.training.settings import HELD, HoldKind

_ALIKE = 2  # Tools that stand for those which were called, where a request came with no other.


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
        yield request(user_request(conversation)), None


def _with_anothers(conversations: Sequence[Conversation]) -> Iterator[tuple[Conversation, None]]:
    for conversation, other in zip(conversations, [*conversations[1:], *conversations[:1]], strict=True):
        if (system_text(other), other.tools) != (system_text(conversation), conversation.tools):
            yield request(user_request(conversation), tools=other.tools, system=system_text(other)), None


def _without_the_called(conversations: Sequence[Conversation]) -> Iterator[tuple[Conversation, None]]:
    every = {str(tool.get("name")): tool for one in conversations for tool in one.tools}
    words = {name: _words(tool) for name, tool in every.items()}
    for conversation in conversations:
        called = _called(conversation)
        if not called or not conversation.tools:
            continue
        left = [tool for tool in conversation.tools if tool.get("name") not in called]
        if not left:
            wanted = set().union(*(words.get(name, set()) for name in called))
            others = sorted(every.keys() - called, key=lambda name: (-_likeness(words[name], wanted), name))
            left = [every[name] for name in others[:_ALIKE]]
        if left:
            yield (
                replace(request(user_request(conversation), system=system_text(conversation)), tools=tuple(left)),
                None,
            )


def _after_results(conversations: Sequence[Conversation]) -> Iterator[tuple[Conversation, int]]:
    for conversation in conversations:
        for index in range(1, len(conversation.turns)):
            before, turn = conversation.turns[index - 1 : index + 1]
            if before.role == "tool" and turn.role == "assistant" and not turn.n_calls:
                yield conversation, index


def _called(conversation: Conversation) -> set[str]:
    """Names of the functions that the first learnt turn calls."""
    if not conversation.learnt:
        return set()
    turn = conversation.turns[conversation.learnt[0]]
    calls = turn.calls or read_calls(turn.text, offered=[str(tool.get("name")) for tool in conversation.tools]).calls
    return {call.name for call in calls or ()}


def _words(tool: dict[str, Any]) -> set[str]:
    return set(re.findall(r"[a-z]{3,}", f"{tool.get('name', '')} {tool.get('description', '')}".lower()))


def _likeness(one: set[str], other: set[str]) -> float:
    """Shared words over all words (Jaccard)."""
    return len(one & other) / len(one | other) if one | other else 0.0
