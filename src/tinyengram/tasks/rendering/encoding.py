"""Conversations as token ids, with a mask that says which tokens are learnt, and an account of every turn and call."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from tinyengram.tasks.conversations import Conversation
from tinyengram.tasks.errors import TaskError
from tinyengram.tasks.left_out import LeftOut, LeftOutCounts
from tinyengram.tasks.rendering.renderer import Renderer
from tinyengram.tasks.rendering.template import shared_length
from tinyengram.tasks.rendering.writers import RefusedTurn, RenderedTurn

OnTooLong = Literal["drop", "truncate"]
_SHOWN_REASONS = 5


@dataclass(frozen=True)
class EncodedExample:
    """One training text.

    Attributes:
        input_ids: The whole text.
        answer_mask: True for each token of a learnt turn and what ends it: what is to be predicted.
        id: Of the conversation; ``id#turn`` where several examples come from one, ``turn`` the last that it holds.
        conversation: The conversation's id.
        turns: Indices of the learnt turns that it holds.
        calls: How many calls these make.
    """

    input_ids: list[int]
    answer_mask: list[bool]
    id: str
    conversation: str = ""
    turns: tuple[int, ...] = ()
    calls: int = 0


@dataclass
class EncodedData:
    """Examples and what was left out.

    ``turns`` and those left out are together the learnt turns that were given; so with ``calls``.

    Attributes:
        examples: In the order of the conversations.
        texts, turns, calls, tokens: How many of each are learnt; a text is an example.
        left_out_counts: Turns, calls and texts that are not learnt; ``left_out`` lists them.
        too_long: Turns that end behind ``max_length``, left out or cut.
    """

    examples: list[EncodedExample] = field(default_factory=list)
    texts: int = 0
    turns: int = 0
    calls: int = 0
    tokens: int = 0
    left_out_counts: LeftOutCounts = field(default_factory=LeftOutCounts)
    too_long: int = 0

    @property
    def left_out(self) -> list[LeftOut]:
        """By kind and reason, in the order in which they were met."""
        return self.left_out_counts.listed()


def encode_all(
    conversations: Sequence[Conversation],
    renderer: Renderer,
    *,
    max_length: int = 2048,
    on_too_long: OnTooLong = "drop",
) -> EncodedData:
    """Encode the learnt turns of conversations.

    With the tokenizer's template, prompt and answer are tokenised apart, as a server feeds the one and generates the
    other, and without special tokens: those that a template wants stand in its text, and neither vLLM nor transformers
    adds any to a chat. Turns of one conversation share a text where its ids begin, for each of them, with those of its
    prompt and answer. ChatML is tokenised whole, as in the experiment, with the end-of-text token behind the last
    learnt turn.

    Args:
        conversations: With their learnt turns marked; what follows the last of them is not read.
        renderer: How they are written.
        max_length: In tokens; turns that end behind it are left out, the earlier ones of their conversation are not.
        on_too_long: ``truncate`` keeps the part of an answer that fits, where there is one.

    Raises:
        TaskError: Nothing is left, or ChatML meets a tokenizer that cannot say where its tokens stand.
    """
    encoder = Encoder(renderer, max_length=max_length, on_too_long=on_too_long)
    for conversation in conversations:
        encoder.data.examples += encoder.encode(conversation)
    encoder.refuse_nothing()
    return encoder.data


class Encoder:
    """Encodes conversations one at a time and keeps account, for data larger than memory; see :func:`encode_all`.

    Attributes:
        data: The account so far; its ``examples`` are for the caller to fill.

    Raises:
        TaskError: ChatML meets a tokenizer that cannot say where its tokens stand.
    """

    def __init__(self, renderer: Renderer, *, max_length: int = 2048, on_too_long: OnTooLong = "drop") -> None:
        if renderer.template == "chatml" and not renderer.tokenizer.is_fast:
            raise TaskError("A fast tokenizer is needed to find the answer's tokens; this one is slow.")
        self.data = EncodedData()
        self._renderer = renderer
        self._tokens = _Tokens(renderer.tokenizer)
        self._limit = _Limit(max_length, on_too_long)
        self._encode = _encode_whole if renderer.template == "chatml" else _encode_apart
        self._conversations = 0

    def encode(self, conversation: Conversation) -> list[EncodedExample]:
        """Examples of one conversation, none where nothing of it can be learnt."""
        data = self.data
        self._conversations += 1
        rendered = []
        for turn in self._renderer.turns(conversation):
            if isinstance(turn, RefusedTurn):
                data.left_out_counts.add("turns", turn.reason, conversation.id)
                data.left_out_counts.add("calls", turn.reason, conversation.id, turn.calls)
            else:
                rendered.append(turn)
        parts = self._encode(rendered, self._tokens, self._limit, data, conversation.id)
        for part in parts:
            data.texts += 1
            data.turns += len(part.turns)
            data.calls += part.calls
            data.tokens += sum(part.mask)
        return [
            EncodedExample(
                part.ids,
                part.mask,
                conversation.id if len(parts) == 1 else f"{conversation.id}#{part.turns[-1]}",
                conversation.id,
                tuple(part.turns),
                part.calls,
            )
            for part in parts
        ]

    def refuse_nothing(self) -> None:
        """Raise if nothing could be encoded.

        Raises:
            TaskError: Says why.
        """
        if not self.data.texts:
            raise TaskError(_nothing_left(self._conversations, self.data, self._limit))


def marked_text(example: EncodedExample, tokenizer: Any) -> list[tuple[str, bool]]:
    """An example's text in pieces, each with whether it is learnt; together they are the decoded text.

    A character whose bytes are split between two pieces stands in the later one.
    """
    ids, mask = example.input_ids, example.answer_mask
    whole = tokenizer.decode(ids, clean_up_tokenization_spaces=False)
    pieces: list[tuple[str, bool]] = []
    start = 0
    for at in range(1, len(ids) + 1):
        if at < len(ids) and mask[at] == mask[at - 1]:
            continue
        # Decoded on its own, a piece would lose the blank before it or show half a character.
        until = tokenizer.decode(ids[:at], clean_up_tokenization_spaces=False) if at < len(ids) else whole
        end = max(start, shared_length(until, whole))
        if end > start:
            pieces.append((whole[start:end], mask[at - 1]))
        start = end
    return pieces


@dataclass
class _Limit:
    """What may be encoded, and the shortest that was met."""

    tokens: int
    on_too_long: OnTooLong
    shortest: int | None = None

    def met(self, tokens: int) -> None:
        self.shortest = tokens if self.shortest is None else min(self.shortest, tokens)


@dataclass
class _Part:
    """An example in the making."""

    ids: list[int]
    mask: list[bool]
    turns: list[int]
    calls: int


class _Tokens:
    """A tokenizer without its own additions.

    Args:
        tokenizer: Any.
    """

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self.end_of_text: str = tokenizer.eos_token or ""
        self._cut_first = {id for id, token in tokenizer.added_tokens_decoder.items() if not token.normalized}

    def of(self, text: str) -> list[int]:
        """Ids of a text."""
        return list(self._tokenizer(text, add_special_tokens=False)["input_ids"])

    def with_starts(self, text: str) -> tuple[list[int], list[int]]:
        """Ids of a text, and where in it each begins."""
        encoded = self._tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
        return list(encoded["input_ids"]), [start for start, _ in encoded["offset_mapping"]]

    def of_prompts(self, prompts: Sequence[str]) -> list[list[int]]:
        """Ids of one conversation's prompts, each as if tokenised alone, in about the time that the last takes.

        A tokenizer cuts special tokens such as ``<|im_start|>`` out of the raw text before all else, so the ids before
        one are the same whatever follows it. Of a prompt that the last one continues, only the piece from its last
        special token on is tokenised again.
        """
        if len(prompts) < 2 or not self._tokenizer.is_fast:
            return [self.of(prompt) for prompt in prompts]
        ids, starts = self.with_starts(prompts[-1])
        cuts = [at for at, id in enumerate(ids) if id in self._cut_first]
        found = []
        for prompt in prompts[:-1]:
            inside = bisect_left(cuts, len(prompt), key=starts.__getitem__)
            if inside and prompts[-1].startswith(prompt):
                cut = cuts[inside - 1]
                found.append(ids[:cut] + self.of(prompt[starts[cut] :]))
            else:
                found.append(self.of(prompt))
        return [*found, ids]


def _encode_apart(
    turns: Sequence[RenderedTurn], tokens: _Tokens, limit: _Limit, data: EncodedData, where: str
) -> list[_Part]:
    """Prompt and answer of each turn tokenised apart; a turn goes on in the text of the one before where it can."""
    parts: list[_Part] = []
    for turn, prompt in zip(turns, tokens.of_prompts([turn.prompt for turn in turns]), strict=True):
        answer = tokens.of(turn.answer)
        limit.met(len(prompt) + len(answer))
        calls = turn.calls
        if len(prompt) + len(answer) > limit.tokens:
            data.too_long += 1
            answer = answer[: max(limit.tokens - len(prompt), 0)] if limit.on_too_long == "truncate" else []
            _note_too_long(turn, bool(answer), limit, data, where)
            calls = 0
        if not answer:
            continue
        if turn.text_lost:
            data.left_out_counts.add("texts", "the chat template drops the text beside a call", where)
        known = len(parts[-1].ids) if parts else 0
        if not parts or prompt[:known] != parts[-1].ids:
            parts.append(_Part([], [], [], 0))
            known = 0
        part = parts[-1]
        part.mask += [False] * (len(prompt) - known) + [True] * len(answer)
        part.ids = prompt + answer
        part.turns.append(turn.turn)
        part.calls += calls
    return parts


def _encode_whole(
    turns: Sequence[RenderedTurn], tokens: _Tokens, limit: _Limit, data: EncodedData, where: str
) -> list[_Part]:
    """ChatML as the experiment encodes it: one text with the end-of-text token behind it, tokenised whole."""
    if not turns:
        return []
    ids, starts = tokens.with_starts(turns[-1].prompt + turns[-1].answer + tokens.end_of_text)
    spans = [
        (bisect_left(starts, len(turn.prompt)), bisect_left(starts, len(turn.prompt) + len(turn.answer)))
        for turn in turns
    ]
    behind = ids[spans[-1][1] :]
    limit.met(spans[0][1] + len(behind))
    fitting = sum(end + len(behind) <= limit.tokens for _, end in spans)
    kept, whole = ids[: spans[fitting - 1][1]] + behind if fitting else [], fitting
    if fitting < len(turns) and limit.on_too_long == "truncate" and spans[fitting][0] < limit.tokens:
        # A turn may be whole where only the end-of-text token is cut.
        kept, fitting, whole = ids[: limit.tokens], fitting + 1, fitting + (spans[fitting][1] <= limit.tokens)
    data.too_long += sum(end + len(behind) > limit.tokens for _, end in spans)
    for index, turn in enumerate(turns[whole:], whole):
        _note_too_long(turn, index < fitting, limit, data, where)
    if not fitting:
        return []
    mask = [False] * len(kept)
    for start, end in spans[:fitting]:
        mask[start:end] = [True] * (min(end, len(kept)) - start)
    return [_Part(kept, mask, [turn.turn for turn in turns[:fitting]], sum(turn.calls for turn in turns[:whole]))]


def _note_too_long(turn: RenderedTurn, begins_inside: bool, limit: _Limit, data: EncodedData, where: str) -> None:
    reason = f"longer than max_length={limit.tokens} tokens"
    if begins_inside:
        reason = f"cut off at max_length={limit.tokens} tokens"
    data.left_out_counts.add("texts" if begins_inside else "turns", reason, where)
    data.left_out_counts.add("calls", reason, where, turn.calls)


def _nothing_left(conversations: int, data: EncodedData, limit: _Limit) -> str:
    lost = [one for one in data.left_out if one.what == "turns"]
    if not lost:
        return f"Nothing to learn: none of the {conversations} conversations has a turn that is marked as learnt."
    if limit.shortest is not None and sum(one.count for one in lost) == data.too_long:
        return (
            f"max_length={limit.tokens} is shorter than every one of the {data.too_long} examples; the shortest has "
            f"{limit.shortest} tokens. Raise max_length."
        )
    shown = "".join(f"\n  {one.count} turns: {one.reason} (first: {one.first})" for one in lost[:_SHOWN_REASONS])
    remedy = "\nUse template: chatml." if any("chat template" in one.reason for one in lost) else ""
    return f"Nothing to learn is left of {sum(one.count for one in lost)} turns:{shown}{remedy}"
