"""What must hold of every encoding: the ids are those that a server feeds and the answer it should generate."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tests.tasks.rendering import standins
from tinyengram.tasks.conversations import Conversation
from tinyengram.tasks.rendering import EncodedData, EncodedExample


def runs(example: EncodedExample) -> list[tuple[int, int]]:
    """Where the mask is on, as half-open ranges."""
    edges = [0, *example.answer_mask, 0]
    starts = [at for at in range(len(edges) - 1) if edges[at + 1] and not edges[at]]
    ends = [at for at in range(len(edges) - 1) if edges[at] and not edges[at + 1]]
    return list(zip(starts, ends, strict=True))


def by_turn(data: EncodedData) -> dict[tuple[str, int], tuple[list[int], list[int]]]:
    """For each learnt turn the ids before it and its own; nothing else is marked."""
    found = {}
    for example in data.examples:
        marked = runs(example)
        assert len(marked) == len(example.turns)
        for turn, (start, end) in zip(example.turns, marked, strict=True):
            assert (example.conversation, turn) not in found
            found[example.conversation, turn] = example.input_ids[:start], example.input_ids[start:end]
    return found


def assert_served(data: EncodedData, tokenizer: Any, conversations: Sequence[Conversation], **options: Any) -> None:
    """The ids before each learnt turn are those of the served prompt, and the turn's are what the template writes."""
    found = by_turn(data)
    for conversation in conversations:
        sent, tools = standins.messages(conversation), standins.tools(conversation)
        for turn in conversation.learnt:
            if (conversation.id, turn) not in found:
                continue
            before, answer = found[conversation.id, turn]
            assert before == tokenizer.apply_chat_template(
                sent[:turn], tools=tools, add_generation_prompt=True, return_dict=False, **options
            )
            written = tokenizer.apply_chat_template(sent[: turn + 1], tools=tools, tokenize=False, **options)
            text = tokenizer.decode(answer)
            # What the template adds behind the end of the turn is not generated.
            assert (
                written.rstrip()
                .removesuffix(tokenizer.eos_token)
                .rstrip()
                .endswith(text.removesuffix(tokenizer.eos_token))
            )
            # Not less than the turn: its text and its calls' arguments.
            said = conversation.turns[turn]
            assert said.text in text or said.calls
            for call in said.calls:
                assert call.name in text


def assert_adds_up(data: EncodedData, conversations: Sequence[Conversation]) -> None:
    """What is learnt and what is left out are together what was given."""
    given = [one.turns[index] for one in conversations for index in one.learnt]
    assert data.turns + sum(one.count for one in data.left_out if one.what == "turns") == len(given)
    assert data.calls + sum(one.count for one in data.left_out if one.what == "calls") == sum(
        len(turn.calls) for turn in given
    )
    assert data.tokens == sum(sum(example.answer_mask) for example in data.examples)
    assert len({example.id for example in data.examples}) == len(data.examples)
