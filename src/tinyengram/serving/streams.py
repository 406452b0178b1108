"""An answer under way among others: what is wanted, its tokens so far, and what is told of them."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import RepetitionPenaltyLogitsProcessor, TemperatureLogitsWarper, TopPLogitsWarper

from tinyengram.serving.generation import Ending, Generated, Watch


@dataclass(frozen=True)
class Drawing:
    """How a token is drawn, instead of the likeliest being taken."""

    temperature: float
    top_p: float = 1.0
    seed: int | None = None


@dataclass(frozen=True)
class Asked:
    """An answer that is wanted.

    Attributes:
        ids: Of the prompt.
        adapter: PEFT's name of the adapter that answers; None for the base.
        ends: Ids that end a turn; they belong to no answer.
        max_new_tokens: The answer is cut there.
        tokenizer: That decodes the answer; used by the batcher's thread alone.
        stops: Texts that end the answer; they belong to none.
        drawing: How it is drawn; None for the likeliest.
    """

    ids: Sequence[int]
    adapter: str | None
    ends: Sequence[int]
    max_new_tokens: int
    tokenizer: Any
    stops: tuple[str, ...] = ()
    drawing: Drawing | None = None


News = str | Generated | Exception


class Stream:
    """An answer under way.

    Args:
        asked: What is wanted.
        tell: Is given each piece of text, whole characters, then what was generated, or the error that ended it. The
            batcher's thread calls it.
    """

    def __init__(self, asked: Asked, tell: Callable[[News], None]) -> None:
        self.asked, self._tell = asked, tell
        self._given_up = threading.Event()
        self.is_over = False

    def begin(self, penalty: float | None, device: Any) -> None:
        """Get ready for the first token; called once, by the thread that generates."""
        asked = self.asked
        self.ids = list(asked.ids)
        self._watch = Watch(asked.tokenizer, set(asked.ends), None)
        self._shown, self._held = 0, max([0, *(len(stop) - 1 for stop in asked.stops)])
        self._penalty = None if penalty in (None, 1.0) else RepetitionPenaltyLogitsProcessor(penalty)
        if asked.drawing is not None:
            self._warp: list[Any] = [TemperatureLogitsWarper(asked.drawing.temperature)]
            if asked.drawing.top_p < 1:
                self._warp.append(TopPLogitsWarper(asked.drawing.top_p))
            self._dice = torch.Generator(device)
            if asked.drawing.seed is None:
                self._dice.seed()
            else:
                self._dice.manual_seed(asked.drawing.seed)

    def give_up(self) -> None:
        """Nobody waits for the rest: it is dropped before the next token. May be called from any thread."""
        self._given_up.set()

    @property
    def is_given_up(self) -> bool:
        """Whether :meth:`give_up` was called."""
        return self._given_up.is_set()

    def fail(self, error: Exception) -> None:
        """End with an error, unless it has ended already."""
        if not self.is_over:
            self.is_over = True
            self._tell(error)

    def take(self, logits: torch.Tensor) -> None:
        """Take the next token.

        Args:
            logits: float ``(vocab,)``.
        """
        scores = logits.float().unsqueeze(0)
        if self._penalty is not None:
            scores = self._penalty(torch.tensor([self.ids], device=scores.device), scores)
        if self.asked.drawing is None:
            token = int(scores.argmax(-1))
        else:
            for warp in self._warp:
                scores = warp(None, scores)
            token = int(torch.multinomial(scores.softmax(-1), 1, generator=self._dice))
        self.ids.append(token)
        self._watch.take(token)
        self._tell_news()

    def _tell_news(self) -> None:
        watch, asked = self._watch, self.asked
        found = [at for stop in asked.stops if (at := watch.text.find(stop)) >= 0]
        ending: Ending | None = None
        if found:
            ending = "stopped"
        elif watch.ended:
            ending = "end of turn"
        elif len(watch.ids) >= asked.max_new_tokens:
            ending = "length"
        text = watch.text[: min(found)] if found else watch.text
        until = len(watch.whole) - self._held if ending is None else len(text)
        if until > self._shown:
            self._tell(text[self._shown : until])
            self._shown = until
        if ending is not None:
            self.is_over = True
            self._tell(Generated(text, tuple(watch.ids), ending))
