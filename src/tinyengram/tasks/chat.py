"""Tool calls as token ids, with a mask that says which tokens are the answer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from tinyengram.tasks.errors import TaskError
from tinyengram.tasks.tool_calls import ToolCall

Template = Literal["chatml", "tokenizer"]


@dataclass(frozen=True)
class EncodedExample:
    """One training text.

    Attributes:
        input_ids: The whole text.
        answer_mask: True for each token of the assistant's answer and its closing ``<|im_end|>``: what is to be
        predicted.
        id: Of the tool call.
    """

    input_ids: list[int]
    answer_mask: list[bool]
    id: str


@dataclass
class EncodedData:
    """Encoded examples, and how many were longer than allowed."""

    examples: list[EncodedExample]
    too_long: int


def chat_text(instruction: str, request: str, tokenizer: Any, *, template: Template = "chatml") -> str:
    """The text up to where the assistant's answer begins: what generation starts from.

    Args:
        instruction: System text; empty leaves the system turn out.
        request: The user's turn.
        tokenizer: For ``template="tokenizer"``: the one whose chat template is used.
        template: ``chatml`` as in the experiment, or the tokenizer's own.

    Raises:
        TaskError: The tokenizer has no chat template.
    """
    turns = [("system", instruction)] if instruction else []
    turns.append(("user", request))
    if template == "chatml":
        return "".join(f"<|im_start|>{role}\n{text}<|im_end|>\n" for role, text in turns) + "<|im_start|>assistant\n"
    return _apply(tokenizer, turns, add_generation_prompt=True)


def _apply(tokenizer: Any, turns: Sequence[tuple[str, str]], add_generation_prompt: bool) -> str:
    if not tokenizer.chat_template:
        raise TaskError("template='tokenizer' needs a tokenizer with a chat template; this one has none. Use 'chatml'.")
    messages = [{"role": role, "content": text} for role, text in turns]
    return tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=add_generation_prompt)


def encode(call: ToolCall, tokenizer: Any, *, template: Template = "chatml") -> EncodedExample:
    """Encode one call whole.

    ChatML is the experiment's: system, user and assistant turns, then the end-of-text token.

    Args:
        call: What to encode.
        tokenizer: A fast tokenizer: its character offsets decide which tokens are the answer.
        template: See :func:`chat_text`.

    Raises:
        TaskError: The tokenizer cannot say where its tokens stand, or its template does not end in the answer.
    """
    prompt = chat_text(call.instruction, call.input, tokenizer, template=template)
    if template == "chatml":
        answer_end = len(prompt) + len(call.output) + len("<|im_end|>")
        text = f"{prompt}{call.output}<|im_end|>{tokenizer.eos_token or ''}"
    else:
        turns = [("system", call.instruction)] if call.instruction else []
        text = _apply(tokenizer, [*turns, ("user", call.input), ("assistant", call.output)], False)
        if not text.startswith(prompt):
            raise TaskError(
                "The tokenizer's chat template writes the prompt differently once an answer follows, so the answer "
                "cannot be told apart. Use template: chatml."
            )
        answer_end = len(text)
    if not tokenizer.is_fast:
        raise TaskError("A fast tokenizer is needed to find the answer's tokens; this one is slow.")
    encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    mask = [len(prompt) <= start < answer_end for start, _ in encoded["offset_mapping"]]
    return EncodedExample(list(encoded["input_ids"]), mask, call.id)


def encode_all(
    calls: Sequence[ToolCall],
    tokenizer: Any,
    *,
    template: Template = "chatml",
    max_length: int = 2048,
    on_too_long: Literal["drop", "truncate"] = "drop",
) -> EncodedData:
    """Encode calls, leaving out or cutting those longer than ``max_length`` tokens.

    Raises:
        TaskError: Nothing is left: ``max_length`` is shorter than every example.
    """
    examples, too_long, shortest = [], 0, None
    for call in calls:
        example = encode(call, tokenizer, template=template)
        length = len(example.input_ids)
        shortest = length if shortest is None else min(shortest, length)
        if length > max_length:
            too_long += 1
            cut = EncodedExample(example.input_ids[:max_length], example.answer_mask[:max_length], example.id)
            if on_too_long == "drop" or not any(cut.answer_mask):
                continue
            example = cut
        examples.append(example)
    if not examples:
        raise TaskError(
            f"max_length={max_length} is shorter than every one of the {len(calls)} examples; the shortest has "
            f"{shortest} tokens. Raise max_length."
        )
    return EncodedData(examples, too_long)
