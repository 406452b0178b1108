"""Why a memory spoke: a text, or a request with the model's answer, token by token with the memory and without it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel

from tinyengram.serving.conversation import Talk
from tinyengram.serving.generation import HALF, generate
from tinyengram.serving.model import Served, ServingError
from tinyengram.tasks.conversations import Turn

if TYPE_CHECKING:
    import torch

    from tinyengram.memory.explaining import Spoke

MOST_TOKENS = 1024
"""Of a text: every token has a distribution over the whole vocabulary, twice."""


class Ngram(BaseModel):
    """An n-gram that a memory looked up: its text, its rows in the layer's table, and how many of them were trained."""

    text: str
    rows: list[int]
    trained: int


class Memory(BaseModel):
    """What one memory did where a token was read; see :class:`tinyengram.memory.explaining.Spoke`."""

    layer: int
    is_open: bool
    gate: float
    strength: float
    ngrams: list[Ngram]


class Likely(BaseModel):
    """A token and its probability."""

    text: str
    probability: float


class Step(BaseModel):
    """One token of a text, as it was expected where the token before it was read.

    Attributes:
        text: The token's; empty for what would come after the text, and for a part of a character that goes on.
        is_answer: Whether the model wrote it.
        moved: Kullback-Leibler divergence of the model from its base there, ``KL(base || model)``, in nats; 0 to the
            bit where the memory added nothing. None for the first token, which nothing expects.
        probability, of_base: Of this very token, with the memory and without; None for what would come after the text.
        likeliest, likeliest_of_base: What was likeliest there.
        memories: What the memories did where the token before was read.
    """

    text: str
    is_answer: bool = False
    moved: float | None = None
    probability: float | None = None
    of_base: float | None = None
    likeliest: Likely | None = None
    likeliest_of_base: Likely | None = None
    memories: list[Memory] = []


class Explained(BaseModel):
    """A text as a memory read it.

    Attributes:
        adapter, base: By name.
        memory: ``hashed`` (an n-gram shares its rows with others that hash alike) or ``exact``.
        latched: Whether the memory has a latch (``open_after``).
        rendering: How a request was written; empty for a plain text.
        steps: One for each token, and a last one for what would come next.
    """

    adapter: str
    base: str
    memory: str
    latched: bool
    rendering: str
    steps: list[Step]

    @property
    def is_shut(self) -> bool:
        """Whether a latch kept the memory shut at every token."""
        return self.latched and not any(memory.is_open for step in self.steps for memory in step.memories)


def explain(served: Served, text: str) -> Explained:
    """Why a memory spoke where a plain text was read.

    Args:
        served: From :func:`tinyengram.serving.load_served`, with an Engram adapter.
        text: Read as it is, without a chat template.

    Raises:
        ServingError: The adapter has no memory; or the text has no token or too many.
    """
    ids = served.tokenizer(text, add_special_tokens=False)["input_ids"]
    return _explained(served, ids, len(ids), "")


def explain_answer(talk: Talk, message: str, *, max_new_tokens: int = 128) -> Explained:
    """Why a memory spoke where a message was answered: what the model writes is explained with what it read.

    Args:
        talk: A conversation with tools and what was said before; message and answer are not kept.
        message: The user's.
        max_new_tokens: The answer is cut there.

    Raises:
        ServingError: As for :func:`explain`.
        TaskError: The chat template refuses the message.
    """
    served = talk.served
    _refuse_without_memory(served)
    asked = replace(talk.conversation, turns=(*talk.conversation.turns, Turn("user", message)))
    prompt = served.tokenizer(talk.renderer.prompt(asked), add_special_tokens=False)["input_ids"]
    _refuse_length(served, prompt, max_new_tokens)
    answer = generate(
        served.model,
        served.tokenizer,
        prompt,
        ends=talk.renderer.end_ids,
        max_new_tokens=max_new_tokens,
        use_cache=served.use_cache,
    )
    return _explained(served, [*prompt, *answer.ids], len(prompt), talk.renderer.description)


def _refuse_length(served: Served, ids: Sequence[int], more: int) -> None:
    most = min(MOST_TOKENS, served.context or MOST_TOKENS)
    if len(ids) + more > most:
        answer = f", and {more} of an answer" if more else ""
        raise ServingError(
            f"The text has {len(ids)} tokens{answer}; at most {most} are explained at once. Give a shorter one, or "
            "fewer tools."
        )


def _refuse_without_memory(served: Served) -> None:
    if served.method != "engram":
        kind = f"its method is {served.method}" if served.method else "it is a model without an adapter"
        raise ServingError(
            f"{served.name} has no memory: {kind}. Give the folder of an Engram adapter; `tinyengram chat` compares "
            "the answers of any adapter with its base's."
        )


def _explained(served: Served, ids: Sequence[int], prompt: int, rendering: str) -> Explained:
    import torch

    from tinyengram.memory.explaining import what_memories_did

    _refuse_without_memory(served)
    if not ids:
        raise ServingError("The text has no token. Give one that the tokenizer does not drop.")
    _refuse_length(served, ids, 0)
    noted, logits = what_memories_did(served.model, ids)
    with torch.no_grad(), served.model.disable_adapter():
        place = next(served.model.parameters()).device
        base = served.model(input_ids=torch.tensor([list(ids)], device=place), use_cache=False).logits[0].float()
    config = served.model.active_peft_config
    texts = [*_pieces(served.tokenizer, ids), ""]
    steps = [Step(text=texts[0], is_answer=prompt < 1)]
    for at in range(len(ids)):
        following = ids[at + 1] if at + 1 < len(ids) else None
        steps.append(
            Step(
                text=texts[at + 1],
                is_answer=at + 1 >= prompt and following is not None,
                **_compared(logits[at], base[at], following, served.tokenizer),
                memories=[_memory(spoke, ids[: at + 1], served.tokenizer) for spoke in noted[at]],
            )
        )
    return Explained(
        adapter=_public(served.name),
        base=_public(str(served.base)),
        memory=config.memory,
        latched=config.open_after is not None,
        rendering=rendering,
        steps=steps,
    )


def _compared(ours: torch.Tensor, base: torch.Tensor, following: int | None, tokenizer: Any) -> dict[str, Any]:
    """What a distribution over the vocabulary says, beside the base's; both are logits ``(vocab,)``."""
    moved = 0.0
    with_memory, without = ours.log_softmax(-1), base.log_softmax(-1)
    if not ours.equal(base):
        moved = max(0.0, float((without.exp() * (without - with_memory)).nansum()))

    def likeliest(log_probabilities: torch.Tensor) -> Likely:
        best = int(log_probabilities.argmax())
        return Likely(text=_text(tokenizer, [best]), probability=float(log_probabilities[best].exp()))

    return {
        "moved": moved,
        "probability": None if following is None else float(with_memory[following].exp()),
        "of_base": None if following is None else float(without[following].exp()),
        "likeliest": likeliest(with_memory),
        "likeliest_of_base": likeliest(without),
    }


def _memory(spoke: Spoke, read: Sequence[int], tokenizer: Any) -> Memory:
    return Memory(
        layer=spoke.layer,
        is_open=spoke.is_open,
        gate=spoke.gate,
        strength=spoke.strength,
        # An n-gram that is longer than what was read reaches back to before the text.
        ngrams=[
            Ngram(text=_text(tokenizer, read[-found.order :]), rows=list(found.rows), trained=found.trained)
            for found in spoke.found
        ],
    )


def _public(name: str) -> str:
    """A name without the folders that it lies in."""
    return Path(name).name if Path(name).is_dir() else name


def _pieces(tokenizer: Any, ids: Sequence[int]) -> list[str]:
    """The text of each token; a character of several tokens is the last one's, and the others have none."""
    pieces, known = [], ""
    for at in range(len(ids)):
        text = _text(tokenizer, ids[: at + 1])
        whole = text if at + 1 == len(ids) else text.rstrip(HALF)
        pieces.append(whole[len(known) :])
        known = whole if len(whole) > len(known) else known
    return pieces


def _text(tokenizer: Any, ids: Sequence[int]) -> str:
    return str(tokenizer.decode(list(ids), clean_up_tokenization_spaces=False))
