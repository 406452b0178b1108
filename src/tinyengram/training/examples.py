"""Conversations as what is trained and what is held out, in tokens, with an account of every turn."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

from tinyengram.errors import TinyEngramError
from tinyengram.training.job import DataSpec
from tinyengram.training.settings import TrainingSettings

if TYPE_CHECKING:
    from tinyengram.tasks.accounts import ChatData
    from tinyengram.tasks.conversations import Conversation
    from tinyengram.tasks.left_out import LeftOut
    from tinyengram.tasks.rendering import EncodedExample, Renderer
    from tinyengram.training.unanswerable import HeldPrompt


@dataclass
class Examples:
    """What is learnt.

    Attributes:
        renderer: How conversations are written for the base.
        data: The conversations as they were read, with their account.
        train, held_out: In tokens.
        conversations: Those behind what is trained, with the turns that it holds as the learnt ones.
        held_out_conversations: The same of what is held out, also beyond ``eval_limit``, which spares the loss alone.
        too_long: Learnt turns that end behind ``max_length``.
        left_out: What is not learnt, by kind and reason.
        remarks: What is learnt but may not be meant, in sentences.
    """

    renderer: Renderer
    data: ChatData
    train: list[EncodedExample]
    held_out: list[EncodedExample]
    conversations: list[Conversation]
    held_out_conversations: list[Conversation]
    too_long: int
    left_out: list[LeftOut]
    remarks: list[str]

    @cached_property
    def checksum(self) -> str:
        """sha256, in hex, over all token ids and masks."""
        content = [
            [[example.input_ids, example.answer_mask] for example in part] for part in (self.train, self.held_out)
        ]
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()

    @cached_property
    def opening_of_tools(self) -> list[int]:
        """Tokens that stand in every training prompt where tools are offered, and in none where they are not.

        See :func:`tinyengram.memory.latch.opening_of_tools`; here chats are written as they are trained.

        Raises:
            TinyEngramError: No training chat offers tools, or nothing tells those that do.
        """
        from tinyengram.memory.latch import JSON_TEXTS, SAMPLE_TOOLS, TOOL_TEXTS, first_opening
        from tinyengram.tasks.conversations import request, user_request

        offering = [one for one in self.conversations if one.tools and one.learnt]
        if not offering:
            raise TinyEngramError(
                "open_after='tools': no training chat offers tools. Name what opens the memory: a text such as "
                "open_after='<tools>', or token ids; or leave open_after out."
            )
        tokenizer = self.renderer.tokenizer

        def written(conversation: Conversation, turn: int | None = None) -> list[int]:
            return tokenizer(self.renderer.prompt(conversation, turn), add_special_tokens=False)["input_ids"]

        # Whoever asks later has other words, systems and tools than the chats here may share.
        asked = [
            request(text, tools=[_name_first(tool["function"]) for tool in tools], system=system)
            for tools in SAMPLE_TOOLS
            for text in ("Good morning", "7 + 5 =")
            for system in ("", "You are a pilot.")
        ]
        as_written = [*(written(one, one.learnt[0]) for one in offering), *map(written, asked)]
        # Or describes a tool in another order.
        turned = [replace(one, tools=tuple(dict(reversed(tool.items())) for tool in one.tools)) for one in offering]
        turned_too = [*as_written, *(written(one, one.learnt[0]) for one in turned)]
        bare = [
            *(written(replace(one, tools=()), one.learnt[0]) for one in offering),
            *(written(request(user_request(one))) for one in offering),
        ]

        def holding(texts: Sequence[str]) -> list[list[int]]:
            return [*bare, *(written(request(t)) for t in texts), *(written(request("Well?", system=t)) for t in texts)]

        try:
            return first_opening(
                [turned_too, as_written],
                [holding([*JSON_TEXTS, *TOOL_TEXTS]), holding(JSON_TEXTS)],
                set(tokenizer.all_special_ids),
            )
        except ValueError as error:
            raise TinyEngramError(str(error)) from error


def load_examples(spec: DataSpec, tokenizer: Any) -> Examples:
    """Read, split and encode data.

    Args:
        spec: Which, and how.
        tokenizer: Of the base that will be trained.

    Raises:
        TinyEngramError: The data cannot be had or used.
    """
    from tinyengram.tasks.chat_data import load_conversations, split
    from tinyengram.tasks.left_out import LeftOutCounts
    from tinyengram.tasks.rendering import Renderer, encode_all

    renderer = Renderer(tokenizer, template=spec.template)
    data = load_conversations(
        spec.name,
        format=spec.format,
        learn=spec.learn,
        max_bad_rows=spec.max_bad_rows,
        revision=spec.revision,
    )
    # Limits count examples that are used, so they are applied behind the limit on length.
    parts = split(data.conversations, seed=spec.split_seed, eval_fraction=spec.eval_fraction)
    to_train, to_hold_out = (
        encode_all(conversations, renderer, max_length=spec.max_length, on_too_long=spec.on_too_long)
        for conversations in (parts.train, parts.held_out)
    )
    train, held_out = to_train.examples[: spec.train_limit], to_hold_out.examples[: spec.eval_limit]
    left_out = LeftOutCounts()
    for known in (data.left_out, to_train.left_out, to_hold_out.left_out):
        left_out.add_all(known)
    for limit, unused in (
        (f"beyond train_limit={spec.train_limit}", to_train.examples[len(train) :]),
        (f"beyond eval_limit={spec.eval_limit}", to_hold_out.examples[len(held_out) :]),
    ):
        for example in unused:
            left_out.add("turns", limit, example.id, len(example.turns))
            left_out.add("calls", limit, example.id, example.calls)
    return Examples(
        renderer=renderer,
        data=data,
        train=train,
        held_out=held_out,
        conversations=_used(parts.train, train),
        held_out_conversations=_used(parts.held_out, to_hold_out.examples),
        too_long=to_train.too_long + to_hold_out.too_long,
        left_out=left_out.listed(),
        remarks=[*data.remarks, *([parts.remark] if parts.remark else [])],
    )


def _used(conversations: Sequence[Conversation], examples: Sequence[EncodedExample]) -> list[Conversation]:
    """The conversations that stand behind encoded examples, with the turns that these hold as the learnt ones."""
    turns: dict[str, set[int]] = {}
    for example in examples:
        turns.setdefault(example.conversation, set()).update(example.turns)
    return [replace(one, learnt=tuple(sorted(turns[one.id]))) for one in conversations if one.id in turns]


def _name_first(tool: dict[str, Any]) -> dict[str, Any]:
    """A tool's description in the order in which chats are read."""
    return {"name": tool["name"], **tool}


def prompts_to_hold(settings: TrainingSettings, spec: DataSpec, examples: Examples) -> list[HeldPrompt]:
    """Prompts on which training is held to the base, made from the training examples alone; none without a weight."""
    from tinyengram.training.unanswerable import unanswerable_prompts

    if not settings.hold_weight:
        return []
    return unanswerable_prompts(
        examples.conversations,
        examples.renderer,
        max_length=spec.max_length,
        shares=settings.hold_kinds,
        limit=settings.hold_prompts,
        seed=spec.split_seed,
    )
