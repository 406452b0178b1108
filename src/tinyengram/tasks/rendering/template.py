"""One tokenizer's chat template: what it writes, and where in it the answer of a turn stands.

The rule is the same for every template. ``prompt`` is what a server feeds: the messages before the turn, and what opens
the assistant's. ``full`` are the messages up to and with the turn. Where ``full`` starts with ``prompt``, the answer is
the rest. Some templates write the earlier text differently once an answer follows (Mistral-Nemo drops the system text,
Hermes a line break before a call); there the same turn is rendered with other words, and the answer is what ``full``
holds behind all that the two share. It ends behind the token that ends a turn, since a server stops there.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from typing import Any

from tinyengram.tasks.conversations import Call, Turn

Messages = list[dict[str, Any]]
Tools = list[dict[str, Any]] | None

PINNED_DATE = "26 Jul 2024"
"""Written where a template prints today's date: what Llama's prints when it is not told. A server prints its own."""

# A macro hides transformers' function of the same name; a function cannot be handed to a template.
_PINNED_CLOCK = (
    '{%- macro strftime_now(format) -%}{{- format | replace("%d", "26") | replace("%-d", "26") | replace("%e", "26") '
    '| replace("%b", "Jul") | replace("%B", "July") | replace("%m", "07") | replace("%Y", "2024") '
    '| replace("%y", "24") | replace("%A", "Friday") | replace("%a", "Fri") | replace("%H", "12") '
    '| replace("%M", "00") | replace("%S", "00") -}}{%- endmacro +%}'
)
_OTHER_WORDS = ("⁂ other words", "※ other words", "‽ other words", "⁜ other words")
_OPENED_THOUGHT = "<think>"
_CLOSED_THOUGHT = "\n</think>\n\n"


class RefusedTurnError(Exception):
    """A template cannot write a turn; the message is the reason."""


class ChatTemplate:
    """What a tokenizer's chat template writes.

    Args:
        tokenizer: One with a chat template.
    """

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        added = {str(token) for token in getattr(tokenizer, "added_tokens_decoder", {}).values()}
        tokens = sorted(filter(None, added | set(tokenizer.all_special_tokens)), key=len, reverse=True)
        any_token = "|".join(map(re.escape, tokens)) or "(?!)"
        self._token = re.compile(rf"\s*({any_token})")
        self._tokens_at_end = re.compile(rf"(?:\s*(?:{any_token}))+\s*\Z")
        self.end: str | None = None
        self.end = self._end_of_turn()

    @property
    def prints_date(self) -> bool:
        """Whether today's date would be written if it were not pinned."""
        sources = self._tokenizer.chat_template
        sources = sources.values() if isinstance(sources, dict) else [sources]
        return any("strftime_now" in source or "date_string" in source for source in sources)

    def render(self, messages: Messages, tools: Tools, *, generate: bool) -> str:
        """The text of some messages, with what opens the assistant's turn where ``generate``.

        Raises:
            RefusedTurnError: The template refuses them or breaks on them; the message is its own.
        """
        from jinja2 import TemplateError

        options: dict[str, Any] = {}
        try:
            source = self._tokenizer.get_chat_template(None, tools)
            if "strftime_now" in source:
                # Behind leading blanks, which the template's first block may be about to remove.
                start = len(source) - len(source.lstrip())
                options["chat_template"] = source[:start] + _PINNED_CLOCK + source[start:]
            if "date_string" in source:
                options["date_string"] = PINNED_DATE
            return self._tokenizer.apply_chat_template(
                messages, tools=tools, tokenize=False, add_generation_prompt=generate, **options
            )
        except TemplateError as error:
            raise RefusedTurnError(f"the chat template refuses: {error}") from error
        except (TypeError, ValueError, LookupError, AttributeError) as error:
            raise RefusedTurnError(f"the chat template breaks: {type(error).__name__}: {error}") from error

    def answer(self, messages: Messages, tools: Tools, prompt: str) -> str:
        """What the last of ``messages``, the assistant's, looks like when it is generated, up to its end.

        A prompt that leaves a thought open gets it closed empty first, as Qwen's and DeepSeek's models do when they
        answer at once, where the template would go on with the answer as if it were the thought.

        Args:
            messages: Up to and with the turn.
            tools: As in the prompt.
            prompt: The messages before it, rendered for generation.

        Raises:
            RefusedTurnError: The template cannot write it, or writes it so that it cannot be told from the prompt.
        """
        full = self.render(messages, tools, generate=False)
        if full.startswith(prompt):
            answer = full[len(prompt) :]
        else:
            answer = full[self._shared_with_other_words(messages, tools, full) :]
        answer = self._ended(answer)
        if prompt.rstrip().endswith(_OPENED_THOUGHT) and "</think>" not in answer:
            answer = _CLOSED_THOUGHT + answer.lstrip("\n")
        return answer

    def _shared_with_other_words(self, messages: Messages, tools: Tools, full: str) -> int:
        """How many characters ``full`` shares with itself when the last turn says something else."""
        words = next((words for words in _OTHER_WORDS if words[0] not in full), _OTHER_WORDS[0])
        other = self.render([*messages[:-1], {"role": "assistant", "content": words}], tools, generate=False)
        shared = shared_length(full, other)
        context = messages[-2]["content"].strip() if len(messages) > 1 else ""
        if context and context in full and context not in full[:shared]:
            raise RefusedTurnError(
                "the chat template writes the turns before this one differently for it: its answer cannot be told apart"
            )
        return shared

    def _ended(self, answer: str) -> str:
        """The answer up to and with the token that ends its turn; where turns have none, with the end-of-text token."""
        found = self._tokens_at_end.search(answer)
        if found is None or self.end is None:
            eos = self._tokenizer.eos_token or ""
            return answer.rstrip().removesuffix(eos) + eos
        ends = [(token.group(1), token.end()) for token in self._token.finditer(answer, found.start())]
        # Gemma 4 ends a turn that calls, and gpt-oss one that is the last, with another token than a turn of text.
        return answer[: next((end for token, end in ends if token == self.end), ends[-1][1])]

    def _end_of_turn(self) -> str | None:
        """The token that ends a turn of text: the last that stands behind one, whether the chat goes on or not.

        Phi writes an end-of-text token behind a chat's last turn, Cohere two tokens behind every turn.
        """
        asked = [{"role": "user", "content": "a"}, {"role": "assistant", "content": _OTHER_WORDS[0]}]
        try:
            last = self._tokens_behind(self.render(asked, None, generate=False))
        except RefusedTurnError:
            last = []
        if not last:
            return None
        try:
            between = self._tokens_behind(self.render([*asked, {"role": "user", "content": "b"}], None, generate=False))
        except RefusedTurnError:
            between = []
        return last[max(shared_length(last, between), 1) - 1]

    def _tokens_behind(self, text: str) -> list[str]:
        """The tokens that follow the probe's words immediately."""
        tokens, at = [], text.rindex(_OTHER_WORDS[0]) + len(_OTHER_WORDS[0]) if _OTHER_WORDS[0] in text else len(text)
        while found := self._token.match(text, at):
            tokens.append(found.group(1))
            at = found.end()
        return tokens


def shared_length(one: Sequence[str], other: Sequence[str]) -> int:
    """How many items two texts or lists have in common from the start."""
    return next((at for at, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))


def holds_calls(text: str, calls: Sequence[Call]) -> bool:
    """Whether a text names every call and all that its arguments hold, in whatever notation."""
    for call in calls:
        if text.count(call.name) < sum(other.name == call.name for other in calls):
            return False
        if json.dumps(call.arguments, ensure_ascii=False) not in text and not all(
            any(spelling in text for spelling in _spellings(leaf)) for leaf in _leaves(call.arguments)
        ):
            return False
    return True


def holds_text(text: str, turn: Turn) -> bool:
    """Whether a text holds a turn's, blanks aside: templates trim, and set thoughts on lines of their own."""
    return "".join(turn.text.split()) in "".join(text.split())


def _leaves(value: Any) -> Iterator[Any]:
    if isinstance(value, dict):
        for key, part in value.items():
            yield key
            yield from _leaves(part)
    elif isinstance(value, list | tuple):
        for part in value:
            yield from _leaves(part)
    else:
        yield value


def _spellings(value: Any) -> tuple[str, ...]:
    """A plain value in JSON, in Python and bare."""
    if isinstance(value, str):
        return value, json.dumps(value, ensure_ascii=False)[1:-1], json.dumps(value)[1:-1], repr(value)[1:-1]
    return json.dumps(value), str(value)
