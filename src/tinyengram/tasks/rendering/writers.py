"""Two ways of writing a conversation: the experiment's ChatML, and the tokenizer's own chat template."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, Protocol

from tinyengram.tasks.calls.reading import CallFormat
from tinyengram.tasks.conversations import Call, Conversation, Turn
from tinyengram.tasks.errors import TaskError
from tinyengram.tasks.rendering.messages import Chat, as_text, with_calls
from tinyengram.tasks.rendering.template import PINNED_DATE, ChatTemplate, RefusedTurnError, holds_calls, holds_text

Notation = CallFormat | Literal["other"]

_CALL = Call("get_weather_report", {"city": "Zermatt", "days": 3})
_TOOL_DOES = "The weather of the coming days."
_TOOL = {
    "name": _CALL.name,
    "description": _TOOL_DOES,
    "parameters": {
        "type": "object",
        "properties": {
            "city": {"type": "string", "description": "Where."},
            "days": {"type": "integer", "description": "How many days."},
        },
        "required": ["city", "days"],
    },
}
_RESULT = '{"sky": "overcast"}'
_SYSTEM = "Speak plainly, dear assistant."


@dataclass(frozen=True)
class RenderedTurn:
    """A learnt turn as text.

    Attributes:
        turn: Its index in the conversation.
        prompt: What generation starts from.
        answer: What is to be generated, up to and with the token that ends the turn.
        calls: How many calls it makes.
        text_lost: The template writes the turn's calls but not the text beside them.
    """

    turn: int
    prompt: str
    answer: str
    calls: int
    text_lost: bool = False


@dataclass(frozen=True)
class RefusedTurn:
    """A learnt turn that cannot be written, with its calls, and why."""

    turn: int
    calls: int
    reason: str


class Writer(Protocol):
    """What :class:`~tinyengram.tasks.rendering.Renderer` needs of a way of writing."""

    description: str
    call_format: Notation
    end_ids: tuple[int, ...]

    def prompt(self, conversation: Conversation, turn: int | None) -> str: ...

    def turns(self, conversation: Conversation, which: Sequence[int]) -> list[RenderedTurn | RefusedTurn]: ...


class ChatML:
    """The experiment's own: tools as lines of the system text, calls behind ``<functioncall>``, results in turns."""

    description = "ChatML as in the published experiment; calls behind <functioncall>"
    call_format: Notation = "functioncall"

    def __init__(self, tokenizer: Any) -> None:
        ends = {tokenizer.eos_token_id, tokenizer.convert_tokens_to_ids("<|im_end|>")}
        self.end_ids: tuple[int, ...] = tuple(sorted(ends - {None, tokenizer.unk_token_id}))

    def prompt(self, conversation: Conversation, turn: int | None) -> str:
        turns = conversation.turns if turn is None else conversation.turns[:turn]
        return "".join(self._blocks(conversation, turns)) + "<|im_start|>assistant\n"

    def turns(self, conversation: Conversation, which: Sequence[int]) -> list[RenderedTurn | RefusedTurn]:
        """The given turns, each with its prompt."""
        if not which:
            return []
        blocks = self._blocks(conversation, conversation.turns[: which[-1]])
        # The first block is the system turn's, written or not.
        first = bool(conversation.turns) and conversation.turns[0].role == "system"
        written: list[RenderedTurn | RefusedTurn] = []
        for index in which:
            turn = conversation.turns[index]
            prompt = "".join(blocks[: index + (not first)]) + "<|im_start|>assistant\n"
            written.append(RenderedTurn(index, prompt, f"{_said(turn)}<|im_end|>", turn.n_calls))
        return written

    def _blocks(self, conversation: Conversation, turns: Sequence[Turn]) -> list[str]:
        """A system block, empty where there is nothing to say, and one for each further turn."""
        has_system = bool(turns) and turns[0].role == "system"
        tools = [json.dumps(tool, ensure_ascii=False) for tool in conversation.tools]
        system = "\n".join([turns[0].text, *tools] if has_system and turns[0].text else tools)
        blocks = [_block("system", system) if system else ""]
        blocks.extend(_block(turn.role, _said(turn)) for turn in turns[has_system:])
        return blocks


class OwnTemplate:
    """The tokenizer's chat template, after finding out what it can write.

    Args:
        tokenizer: One with a chat template.

    Raises:
        TaskError: The template cannot write a question and its answer.
    """

    def __init__(self, tokenizer: Any) -> None:
        self._template = ChatTemplate(tokenizer)
        system_turn = self._writes_system_turn()
        self._chat = partial(with_calls, system_turn=system_turn)
        plain = self._probe(Turn("user", "Hello."), Turn("assistant", "Good day."))
        if isinstance(plain, RefusedTurn):
            raise TaskError(f"Not even a question and its answer can be written: {plain.reason}. Use template: chatml.")
        calling, trouble = self._calling()
        self.call_format: Notation = "hermes" if calling is None else _format_of(calling.answer)
        notes = ["the tokenizer's chat template; calls as it writes them"]
        if trouble is not None:
            self._chat = partial(as_text, system_turn=system_turn)
            notes = [
                f"the tokenizer's chat template cannot write calls ({trouble}): tools, calls and results are written "
                "as text (Hermes)"
            ]
        if not system_turn:
            notes.append("it takes no system turn: the system text opens the first user turn")
        if plain.prompt.rstrip().endswith("<think>"):
            notes.append("its prompt opens a thought, which the answer closes empty")
        if self._template.end is None and tokenizer.eos_token:
            notes.append(f"its turns have no end of their own: {tokenizer.eos_token} is put there")
        if self._template.prints_date:
            notes.append(f"it prints a date, which is held at {PINNED_DATE}; a server prints its own day")
        self.description = "; ".join(notes)
        self.end_ids = _end_ids(tokenizer, [self._template.end, *(one.answer for one in (plain, calling) if one)])

    def prompt(self, conversation: Conversation, turn: int | None) -> str:
        chat = self._chat(conversation)
        try:
            return self._template.render(chat.until(turn), chat.tools, generate=True)
        except RefusedTurnError as error:
            raise TaskError(f"{conversation.id}: {error}.") from error

    def turns(self, conversation: Conversation, which: Sequence[int]) -> list[RenderedTurn | RefusedTurn]:
        """The given turns, each as it is served."""
        chat = self._chat(conversation)
        return [self._turn(conversation, chat, index) for index in which]

    def _turn(self, conversation: Conversation, chat: Chat, index: int) -> RenderedTurn | RefusedTurn:
        turn, before = conversation.turns[index], chat.before[index]
        try:
            prompt = self._template.render(chat.messages[:before], chat.tools, generate=True)
            answer = self._template.answer(chat.messages[: before + 1], chat.tools, prompt)
        except RefusedTurnError as error:
            return RefusedTurn(index, turn.n_calls, str(error))
        if not holds_calls(answer, turn.calls):
            return RefusedTurn(index, turn.n_calls, "the chat template does not write all of the turn's calls")
        text_lost = not holds_text(answer, turn)
        if text_lost and not turn.calls:
            return RefusedTurn(index, 0, "the chat template does not write all of the turn's text")
        return RenderedTurn(index, prompt, answer, turn.n_calls, text_lost)

    def _probe(self, *turns: Turn, tools: tuple[dict[str, Any], ...] = ()) -> RenderedTurn | RefusedTurn:
        """The last of some turns."""
        return self.turns(Conversation("probe", turns, tools), [len(turns) - 1])[0]

    def _writes_system_turn(self) -> bool:
        messages = [{"role": "system", "content": _SYSTEM}, {"role": "user", "content": "Hello."}]
        try:
            return _SYSTEM in self._template.render(messages, None, generate=True)
        except RefusedTurnError:
            return False

    def _calling(self) -> tuple[RenderedTurn | None, str | None]:
        """A turn that calls, and why the template cannot be trusted with calls (None: it can)."""
        asked, called = Turn("user", "Will it rain?"), Turn("assistant", calls=(_CALL,))
        result = Turn("tool", _RESULT, name=_CALL.name, answers=0)
        turns = (Turn("system", _SYSTEM), asked, called, result, Turn("assistant", "It may."))
        first, last = self._probe(*turns[:3], tools=(_TOOL,)), self._probe(*turns, tools=(_TOOL,))
        for one in (first, last):
            if isinstance(one, RefusedTurn):
                return None, one.reason.removeprefix("the chat template ")
        assert isinstance(first, RenderedTurn)
        assert isinstance(last, RenderedTurn)
        if any(part not in first.prompt for part in (_CALL.name, _TOOL_DOES, *_CALL.arguments)):
            return None, "leaves out the tools"
        if "overcast" not in last.prompt:
            return None, "leaves out results"
        return first, None


def _said(turn: Turn) -> str:
    calls = [
        f"<functioncall> {json.dumps({'name': call.name, 'arguments': call.arguments}, ensure_ascii=False)}"
        for call in turn.calls
    ]
    return "\n".join([turn.text, *calls] if turn.text else calls)


def _block(role: str, text: str) -> str:
    return f"<|im_start|>{role}\n{text}<|im_end|>\n"


def _format_of(answer: str) -> Notation:
    """Which notation a call to the probe's function is written in."""
    name = re.escape(_CALL.name)
    notations: list[tuple[Notation, str]] = [
        ("functioncall", r"<functioncall>"),
        ("hermes", r"<tool_call>\s*\{"),
        ("mistral", r"\[TOOL_CALLS\]"),
        ("llama", rf'\{{"name":\s*"{name}",\s*"parameters":'),
        ("json", rf'\{{[^{{}}]*"name":\s*"{name}"'),
        ("python", rf"{name}\((?:city=|\))"),
    ]
    return next((notation for notation, pattern in notations if re.search(pattern, answer)), "other")


def _end_ids(tokenizer: Any, endings: Sequence[str | None]) -> tuple[int, ...]:
    """Ids of the tokens that some texts end in, and of the end of text."""
    ends = {tokenizer.eos_token_id}
    for text in filter(None, endings):
        ends.update(tokenizer(text, add_special_tokens=False)["input_ids"][-1:])
    return tuple(sorted(ends - {None}))
