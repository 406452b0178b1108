"""Look before you train: what would be learnt from a file, what would not and why, and how the model will see it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tinyengram.errors import nearest
from tinyengram.tasks.chat_data import load_conversations, split
from tinyengram.tasks.errors import TaskError
from tinyengram.tasks.left_out import LeftOut
from tinyengram.tasks.rendering import Renderer, encode_all, marked_text

_TEMPLATES = ("tokenizer", "chatml")


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

    Args:
        name: See :func:`tinyengram.tasks.chat_data.load_conversations`, as for the next four.
        tokenizer: Of the base; None: conversations are read only.
        format, learn, max_bad_rows: As there.
        template, max_length: See :class:`tinyengram.tasks.rendering.Renderer` and its ``encode_all``.
        show: How many examples are shown, evenly spaced.

    Raises:
        TaskError: Nothing can be learnt, or an option is unknown.
        SourceError: The data cannot be had.
    """
    if template not in _TEMPLATES:
        raise TaskError(f"template={template!r} is unknown.{nearest(str(template), _TEMPLATES)}")
    data = load_conversations(name, format=format, learn=learn, max_bad_rows=max_bad_rows)
    remarks = list(data.remarks)
    if len(data.conversations) > 1:
        remark = split(data.conversations).remark
        remarks += [remark] if remark else []
    else:
        remarks.append("There is only one conversation: nothing can be held out to measure by.")
    counts: dict[str, Any] = {"turns": data.learnt_turns, "calls": data.learnt_calls, "tokens": None, "examples": None}
    left_out, rendering, shown = list(data.left_out), None, []
    if tokenizer is not None:
        renderer = Renderer(tokenizer, template=template)
        encoded = encode_all(data.conversations, renderer, max_length=max_length)
        left_out += encoded.left_out
        rendering = renderer.description
        examples = encoded.examples
        counts = {"turns": encoded.turns, "calls": encoded.calls, "tokens": encoded.tokens, "examples": len(examples)}
        count = min(show, len(examples))
        shown = [examples[index * len(examples) // count] for index in range(count)]
    return Preview(
        format=data.format,
        rows=data.rows,
        conversations=len(data.conversations),
        **counts,
        left_out=left_out,
        remarks=remarks,
        rendering=rendering,
        shown_ids=[example.id for example in shown],
        shown=[marked_text(example, tokenizer) for example in shown],
    )
