"""Small chat templates that behave as real ones do, and a tokenizer on which prompt and answer merge when joined."""

from __future__ import annotations

import functools
from typing import Any

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from tinyengram.tasks.conversations import Call, Conversation, Turn

_SPECIAL = [
    "<s>",
    "</s>",
    *(f"<|{name}|>" for name in ("system", "user", "assistant", "tool", "call", "called", "end", "close")),
]
_LINES = [
    "\nThe weather\nThe weather",
    '\n{"name": "forecast", "arguments": {"city": "Bern"}}',
    "\n\n\n\nYes.\nYes.\nGood day.",
    "<think>\n\n</think>\n\n",
]


@functools.cache
def _backend(merging: bool) -> Tokenizer:
    """Byte pairs over whole texts: what stands on both sides of a line break becomes one token. Or bytes alone."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=420 if merging else 0,
        special_tokens=_SPECIAL,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_LINES * 4, trainer)
    return tokenizer


def tokenizer(source: str | dict[str, str] | None, *, merging: bool = True) -> PreTrainedTokenizerFast:
    """The stand-in tokenizer with a chat template.

    Args:
        source: The template.
        merging: Whether it knows longer tokens than bytes, some of them across line breaks.
    """
    made = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(_backend(merging).to_str()),
        bos_token="<s>",
        eos_token="</s>",
        pad_token="</s>",
    )
    made.chat_template = source
    return made


def template(
    *,
    head: str = "{{ bos_token }}",
    tools: str = "{% if tools %}<|system|>Tools: {{ tools | tojson }}<|end|>\n{% endif %}",
    turn: str = "<|{{ message.role }}|>\n{{ message.content }}",
    calls: str = "{% for call in message.tool_calls or [] %}<|call|>{{ call.function | tojson }}{% endfor %}",
    end: str = "<|end|>{{ '\n' }}",
    opening: str = "{% if add_generation_prompt %}<|assistant|>{{ '\n' }}{% endif %}",
) -> str:
    """A template whose parts behave well where nothing else is given."""
    return f"{head}{tools}{{% for message in messages %}}{turn}{calls}{end}{{% endfor %}}{opening}"


_RAISE_NOT_ALTERNATING = (
    "{% for message in messages %}{% if (message.role == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('roles must alternate') }}{% endif %}{% endfor %}"
)

# Each writes calls.
WRITING: dict[str, str | dict[str, str]] = {
    "stable": template(),
    # Qwen3: a thought stands before the last answer only.
    "thought in the last turn": template(
        turn="<|{{ message.role }}|>\n{% if loop.last and message.role == 'assistant' %}<think>\n\n</think>{{ '\n\n' }}"
        "{% endif %}{{ message.content }}"
    ),
    # Mistral v3: the tools stand before the last request.
    "tools before the last request": template(
        tools="{% set last = messages | selectattr('role', 'equalto', 'user') | list | length %}"
        "{% set seen = namespace(users=0) %}",
        turn="{% if message.role == 'user' %}{% set seen.users = seen.users + 1 %}"
        "{% if tools and seen.users == last %}"
        "<|system|>Tools: {{ tools | tojson }}<|end|>{% endif %}{% endif %}"
        "<|{{ message.role }}|>\n{{ message.content }}",
    ),
    # Mistral-Nemo: the system text is lost once an answer follows.
    "system text lost before an answer": template(
        turn="<|{{ message.role }}|>\n{% if message.role != 'system' or messages[-1].role != 'assistant' %}"
        "{{ message.content }}{% endif %}"
    ),
    # Hermes: no line break before a call.
    "no break before a call": template(
        turn="<|{{ message.role }}|>{% if not message.tool_calls %}{{ '\n' }}{% endif %}{{ message.content }}"
    ),
    # Gemma 4: a turn that calls ends in another token.
    "another end behind a call": template(
        end="{% if message.tool_calls %}<|called|>{% else %}<|end|>{% endif %}{{ '\n' }}"
    ),
    # Phi: an end-of-text token behind the chat.
    "end of text behind the chat": template(
        opening="{% if add_generation_prompt %}<|assistant|>{{ '\n' }}{% else %}{{ eos_token }}{% endif %}"
    ),
    # Cohere: two tokens end a turn.
    "two tokens end a turn": template(end="<|close|><|end|>{{ '\n' }}"),
    # Mistral: ids of nine characters, the same on a call and its result.
    "ids of nine characters": template(
        calls="{% for call in message.tool_calls or [] %}<|call|>{% if call.id | length != 9 %}"
        "{{ raise_exception('an id needs nine characters') }}{% endif %}{{ call | tojson }}{% endfor %}"
        "{% if message.role == 'tool' %}<|call|>{{ message.tool_call_id }}{% endif %}"
    ),
    # Qwen3.5: arguments in tags.
    "arguments in tags": template(
        calls="{% for call in message.tool_calls or [] %}<call={{ call.function.name }}>"
        "{% for name, value in call.function.arguments.items() %}<{{ name }}>"
        "{{ value if value is string else value | tojson }}</{{ name }}>{% endfor %}{% endfor %}"
    ),
    # Hermes-2-Pro: one template with tools, one without.
    "a template of its own for tools": {
        "default": template(tools="", calls=""),
        "tool_use": template(head="{{ bos_token }}<|system|>With tools.<|end|>"),
    },
}

# None can be trusted with calls; what its description must say.
NOT_WRITING: dict[str, tuple[str, str]] = {
    "calls lost": (template(calls=""), "does not write all of the turn's calls"),
    "tools lost": (template(tools=""), "leaves out the tools"),
    "results lost": (
        template(turn="<|{{ message.role }}|>{% if message.role != 'tool' %}{{ message.content }}{% endif %}"),
        "leaves out results",
    ),
    "calls break": (
        template(calls="{% for call in message.tool_calls or [] %}{{ '' + call.function.arguments }}{% endfor %}"),
        "breaks: TypeError",
    ),
    "no system turn and alternating": (
        template(
            head="{{ bos_token }}" + _RAISE_NOT_ALTERNATING,
            tools="",
            calls="",
        ),
        "it takes no system turn: the system text opens the first user turn",
    ),
}

FORECAST = {
    "name": "forecast",
    "description": "What the sky will do.",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
}

CHAT = Conversation(
    id="chats.jsonl:1",
    turns=(
        Turn("system", "Speak plainly."),
        Turn("user", "Rain in Zürich?"),
        Turn("assistant", calls=(Call("forecast", {"city": "Zürich", "hours": [6, 12], "rain": True}),)),
        Turn("tool", '{"sky": "grey"}', name="forecast", answers=0),
        Turn("assistant", "The weather is grey ☁."),
        Turn("user", "Good day."),
        Turn("assistant", "Yes."),
    ),
    tools=(FORECAST,),
    learnt=(2, 4, 6),
)


TWO = Conversation(
    "two",
    (
        Turn("user", "Bern and Chur?"),
        Turn("assistant", calls=(Call("forecast", {"city": "Bern"}), Call("forecast", {"city": "Chur"}))),
        Turn("tool", "dry", answers=0),
        Turn("tool", "wet", answers=1),
        Turn("assistant", "Dry and wet."),
    ),
    (FORECAST,),
    (1, 4),
)


def messages(conversation: Conversation) -> list[dict[str, Any]]:
    """A conversation as a client sends it to a server."""
    sent: list[dict[str, Any]] = []
    made = 0
    for turn in conversation.turns:
        message: dict[str, Any] = {"role": turn.role, "content": turn.text}
        if turn.calls:
            message["tool_calls"] = []
            for call in turn.calls:
                function = {"name": call.name, "arguments": call.arguments}
                message["tool_calls"].append({"id": f"call{made:05d}", "type": "function", "function": function})
                made += 1
        if turn.role == "tool":
            message |= {"tool_call_id": f"call{turn.answers:05d}", "name": turn.name}
        sent.append(message)
    return sent


def tools(conversation: Conversation) -> list[dict[str, Any]] | None:
    """Its tools as a client sends them."""
    return [{"type": "function", "function": tool} for tool in conversation.tools] or None
