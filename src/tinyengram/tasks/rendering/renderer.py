"""How conversations are written for a model, decided once for a tokenizer."""

from __future__ import annotations

from functools import cached_property
from typing import Any, Literal, get_args

from tinyengram.errors import nearest
from tinyengram.tasks.calls.reading import CallFormat
from tinyengram.tasks.conversations import Conversation
from tinyengram.tasks.errors import TaskError
from tinyengram.tasks.rendering.writers import ChatML, OwnTemplate, RefusedTurn, RenderedTurn, Writer

Template = Literal["tokenizer", "chatml"]

_EMPTY = "the turn says and calls nothing"


class Renderer:
    """Writes prompts and answers as they are served.

    ``tokenizer`` is the model's own chat template with its tools. What it can write is found out by a few probes when
    something is asked first: one that loses or refuses tools, calls or results gets them as text, in Hermes' words, and
    the description says so. ``chatml`` is the published experiment's, for any tokenizer.

    Args:
        tokenizer: The base's.
        template: Which of the two.

    Raises:
        TaskError: ``template`` is neither, or ``"tokenizer"`` and the tokenizer has no chat template.
    """

    def __init__(self, tokenizer: Any, *, template: Template = "tokenizer") -> None:
        if known_template(template) == "tokenizer" and not tokenizer.chat_template:
            raise TaskError(
                "template: tokenizer needs a tokenizer with a chat template; this one has none. Use template: chatml."
            )
        self.tokenizer = tokenizer
        self.template = template

    @cached_property
    def _writer(self) -> Writer:
        return ChatML(self.tokenizer) if self.template == "chatml" else OwnTemplate(self.tokenizer)

    @property
    def description(self) -> str:
        """How conversations are written, in words for a report."""
        return self._writer.description

    @property
    def call_format(self) -> CallFormat | Literal["other"]:
        """The notation in which calls are taught; ``other`` is one of a model's own."""
        return self._writer.call_format

    def readable_format(self) -> CallFormat:
        """The notation in which calls are taught, where generated calls can be read in it.

        Raises:
            TaskError: They cannot: the chat template has a notation of its own.
        """
        if self.call_format == "other":
            raise TaskError(
                "The tokenizer's chat template writes calls in a notation that cannot be read back, so generated calls "
                f"cannot be judged. These can be read: {', '.join(get_args(CallFormat))}. Leave the judging of calls "
                "out, or use template: chatml."
            )
        return self.call_format

    @property
    def end_ids(self) -> tuple[int, ...]:
        """Token ids that end generation: of what ends a turn, and of the end of text."""
        return self._writer.end_ids

    def prompt(self, conversation: Conversation, turn: int | None = None) -> str:
        """The text from which an assistant's turn is generated; tokenise it without special tokens.

        Args:
            conversation: What is said and offered.
            turn: Index of an assistant's turn, which is left out with all that follows; None: after the last turn.

        Raises:
            TaskError: The chat template refuses the conversation; the message is its own.
        """
        return self._writer.prompt(conversation, turn)

    def answer(self, conversation: Conversation, turn: int) -> str:
        """What is to be generated as an assistant's turn, up to and with the token that ends it.

        Raises:
            TaskError: The chat template cannot write the turn.
        """
        (written,) = self._writer.turns(conversation, [turn])
        if isinstance(written, RefusedTurn):
            raise TaskError(f"{conversation.id}: {written.reason}.")
        return written.answer

    def turns(self, conversation: Conversation) -> list[RenderedTurn | RefusedTurn]:
        """Every learnt turn of a conversation, written or refused."""
        spoken = [index for index in conversation.learnt if _speaks(conversation, index)]
        empty = [RefusedTurn(index, 0, _EMPTY) for index in conversation.learnt if not _speaks(conversation, index)]
        return sorted([*self._writer.turns(conversation, spoken), *empty], key=lambda written: written.turn)


def known_template(name: str) -> Template:
    """The template of that name.

    Raises:
        TaskError: There is none.
    """
    for template in get_args(Template):
        if name == template:
            return template
    raise TaskError(f"template={name!r} is unknown.{nearest(name, get_args(Template))}")


def _speaks(conversation: Conversation, index: int) -> bool:
    turn = conversation.turns[index]
    return bool(turn.text.strip() or turn.calls)
