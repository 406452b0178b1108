"""Are generated calls right? Greedy answers, read in every common format and judged by what they mean, never as text.

Of BFCL's requests a call is right as BFCL defines it (Patil et al. 2025, "The Berkeley Function Calling Leaderboard"),
of all others if it is the call that was written; see :mod:`tinyengram.tasks.calls.judging`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from pydantic import BaseModel

from tinyengram.tasks.calls.judging import CallVerdict, Outcome, judge
from tinyengram.tasks.calls.reading import CallFormat, read_calls
from tinyengram.tasks.conversations import Call, Conversation
from tinyengram.tasks.rendering import Renderer
from tinyengram.training.batches import left_padded


@dataclass(frozen=True)
class CallRequest:
    """A place in a conversation where an answer is generated.

    Attributes:
        conversation: What is said and offered before.
        turn: Index of the assistant's turn that is generated anew; None: after the last turn.
        wanted: The calls that it makes; none where the right thing is not to call.
    """

    conversation: Conversation
    turn: int | None
    wanted: tuple[Call, ...]


def requests_for_calls(conversations: Sequence[Conversation], taught: CallFormat) -> list[CallRequest]:
    """Every learnt turn that calls, also where its calls are written as text in the taught format."""
    requests = []
    for conversation in conversations:
        for index in conversation.learnt:
            turn = conversation.turns[index]
            wanted = turn.calls or _written(turn.text, conversation, taught)
            if wanted:
                requests.append(CallRequest(conversation, index, wanted))
    return requests


def _written(text: str, conversation: Conversation, taught: CallFormat) -> tuple[Call, ...]:
    """Calls in a text of the taught format; of another format none, since no answer in it would be judged right."""
    read = read_calls(text, offered={tool["name"] for tool in conversation.tools if "name" in tool})
    return read.calls or () if read.format == taught else ()


class CallScores(BaseModel):
    """Verdicts on requests that want a call, and on requests that none of the offered tools fits."""

    wanted: list[CallVerdict]
    unwanted: list[CallVerdict]

    @property
    def parses(self) -> float:
        """Share of wanted calls that can be read in the taught format."""
        return _share([verdict.outcome in ("right call", "wrong call") for verdict in self.wanted])

    @property
    def functions(self) -> float:
        """Share of wanted calls with the right functions, in whatever format."""
        return _share([verdict.functions for verdict in self.wanted])

    @property
    def right(self) -> float:
        """Share of wanted calls that are right."""
        return _share([verdict.outcome == "right call" for verdict in self.wanted])

    @property
    def refrains(self) -> float:
        """Share of unfitting requests that are declined in prose: neither called, nor left empty, nor babbled at."""
        return _share([verdict.outcome == "declines in prose" for verdict in self.unwanted])

    @property
    def outcomes(self) -> dict[Outcome, int]:
        """How often each outcome came on requests that want a call."""
        return dict(Counter(verdict.outcome for verdict in self.wanted))

    @property
    def unwanted_outcomes(self) -> dict[Outcome, int]:
        """How often each outcome came on requests that no tool fits."""
        return dict(Counter(verdict.outcome for verdict in self.unwanted))


def score_calls(
    model: Any,
    renderer: Renderer,
    wanted: Sequence[CallRequest],
    unwanted: Sequence[CallRequest],
    *,
    max_new_tokens: int = 128,
    batch_size: int = 8,
    on_done: Callable[[int], None] | None = None,
) -> CallScores:
    """Generate an answer to every request and judge it.

    Args:
        model: In evaluation mode, with or without an adapter.
        renderer: Writes the prompts as they are trained, and says which format is taught and what ends a turn.
        wanted: Requests that want a call.
        unwanted: Requests that none of the offered tools fits.
        max_new_tokens: An answer is cut there, and judged as it is.
        batch_size: Requests at a time, of similar length.
        on_done: Called with the number of requests that were just finished.
    """
    everything = [*wanted, *unwanted]
    prompts = [renderer.prompt(one.conversation, one.turn) for one in everything]
    texts = _generate(model, renderer, prompts, max_new_tokens, batch_size, on_done)
    verdicts = [
        judge(
            text,
            id=one.conversation.id,
            wanted=one.wanted,
            ground_truth=one.conversation.ground_truth,
            tools=one.conversation.tools,
            taught=renderer.readable_format(),
        )
        for one, text in zip(everything, texts, strict=True)
    ]
    return CallScores(wanted=verdicts[: len(wanted)], unwanted=verdicts[len(wanted) :])


def _generate(
    model: Any,
    renderer: Renderer,
    prompts: Sequence[str],
    max_new_tokens: int,
    batch_size: int,
    on_done: Callable[[int], None] | None,
) -> list[str]:
    """Greedy answers, in batches of similar length; a row stops at the end of its turn."""
    tokenizer, ends = renderer.tokenizer, set(renderer.end_ids)
    ids = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in prompts]
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else 0
    device = next(model.parameters()).device
    answers = [""] * len(prompts)
    order = sorted(range(len(ids)), key=lambda index: len(ids[index]))
    for start in range(0, len(order), batch_size):
        part = order[start : start + batch_size]
        batch, attention = left_padded([ids[index] for index in part], pad)
        with torch.inference_mode():
            written = model.generate(
                input_ids=batch.to(device),
                attention_mask=attention.to(device),
                max_new_tokens=max_new_tokens,
                do_sample=False,
                eos_token_id=sorted(ends),
                pad_token_id=pad,
            )[:, batch.shape[1] :].tolist()
        for row, index in enumerate(part):
            stop = next((at for at, token in enumerate(written[row]) if token in ends), len(written[row]))
            answers[index] = tokenizer.decode(written[row][:stop])
        if on_done is not None:
            on_done(len(part))
    return answers


def _share(judged: Sequence[bool]) -> float:
    return sum(judged) / len(judged) if judged else float("nan")
