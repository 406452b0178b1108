"""Look before you train: what would be learnt from a file, what would not and why, and how the model will see it."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any

from tinyengram.tasks.chat_data import held_out_by_default, remark_on_split, stream_conversations
from tinyengram.tasks.left_out import LeftOut
from tinyengram.tasks.rendering import EncodedExample, Encoder, Renderer, known_template, marked_text


@dataclass(frozen=True)
class Preview:
    """What would become of a file. Learnt and left out together are everything in it.

    Attributes:
        format: How its rows are written.
        rows, conversations: How many there are, and how many of them can be learnt from.
        turns, calls: Learnt ones, of the assistant.
        tokens, examples: Learnt tokens, and the texts that hold them; None without a tokenizer.
        left_out: What is not learnt, by kind and reason.
        remarks: What may not be meant, in sentences.
        rendering: How the texts are written, in words; None without a tokenizer.
        shown_ids, shown: Some examples: where they stand, and their text in pieces with whether each is learnt.
    """

    format: str
    rows: int
    conversations: int
    turns: int
    calls: int
    tokens: int | None
    examples: int | None
    left_out: list[LeftOut]
    remarks: list[str]
    rendering: str | None
    shown_ids: list[str]
    shown: list[list[tuple[str, bool]]]

    def account(self) -> dict[str, Any]:
        """The numbers as plain values, for JSON."""
        return {
            "format": self.format,
            "rows": self.rows,
            "conversations": self.conversations,
            "learnt": {"turns": self.turns, "calls": self.calls, "tokens": self.tokens, "examples": self.examples},
            "left_out": [one.model_dump() for one in self.left_out],
            "rendering": self.rendering,
        }


def preview(
    name: str,
    *,
    tokenizer: Any = None,
    format: str = "auto",
    learn: Any = "all",
    template: Any = "tokenizer",
    max_length: int = 2048,
    max_bad_rows: int = 0,
    show: int = 3,
) -> Preview:
    """Read a file as training would, and write its conversations as training would if there is a tokenizer.

    The file streams: what this takes does not grow with it.

    Args:
        name: See :func:`tinyengram.tasks.chat_data.load_conversations`, as for the next four.
        tokenizer: Of the base; None: conversations are read only.
        format, learn, max_bad_rows: As there.
        template, max_length: See :class:`tinyengram.tasks.rendering.Renderer` and its ``encode_all``.
        show: How many examples are shown, picked at random but the same every time.

    Raises:
        TaskError: Nothing can be learnt, or an option is unknown.
        SourceError: The data cannot be had.
    """
    template = known_template(template)
    stream = stream_conversations(name, format=format, learn=learn, max_bad_rows=max_bad_rows)
    renderer = None if tokenizer is None else Renderer(tokenizer, template=template)
    encoder = None if renderer is None else Encoder(renderer, max_length=max_length)
    sample = _Sample(show)
    for conversation in stream.conversations:
        if encoder is not None:
            for example in encoder.encode(conversation):
                sample.offer(example)
    account = stream.account
    left_out, remarks = account.left_out(), account.remarks()
    counts: dict[str, Any] = {"turns": account.turns, "calls": account.calls, "tokens": None, "examples": None}
    if encoder is not None:
        encoder.refuse_nothing()
        left_out += encoder.data.left_out
        counts = {name: getattr(encoder.data, name) for name in ("turns", "calls", "tokens")}
        counts["examples"] = encoder.data.texts
    if account.conversations > 1:
        remark = remark_on_split(held_out_by_default(account.conversations), account.conversations)
    else:
        remark = "There is only one conversation: nothing can be held out to measure by."
    shown = sample.in_order()
    return Preview(
        format=account.format,
        rows=account.rows,
        conversations=account.conversations,
        **counts,
        left_out=left_out,
        remarks=[*remarks, *([remark] if remark else [])],
        rendering=None if renderer is None else renderer.description,
        shown_ids=[example.id for example in shown],
        shown=[marked_text(example, tokenizer) for example in shown],
    )


class _Sample:
    """Some of a stream's examples, each as likely as the other (reservoir sampling), the same ones every time."""

    def __init__(self, size: int) -> None:
        self._size, self._seen = size, 0
        self._random = random.Random(0)
        self._kept: list[tuple[int, EncodedExample]] = []

    def offer(self, example: EncodedExample) -> None:
        """Keep an example in place of another, or pass it by."""
        if len(self._kept) < self._size:
            self._kept.append((self._seen, example))
        elif (place := self._random.randint(0, self._seen)) < self._size:
            self._kept[place] = (self._seen, example)
        self._seen += 1

    def in_order(self) -> list[EncodedExample]:
        """As they came."""
        return [example for _, example in sorted(self._kept, key=lambda kept: kept[0])]
