"""How far a model's predictions on general text have moved from its base's, and how well it still predicts the text.

The divergence is taken over the whole vocabulary at every token. Both models read a text in the same pieces, each on
its own key-value cache, and predictions are held for one piece at a time, so what they take does not grow with a text's
length; an adapter that changes nothing has a divergence of exactly zero.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from typing import Any

import torch
from pydantic import BaseModel
from torch.nn import functional as F

from tinyengram import host

_MAX_BATCH_TOKENS = 4096
_MAX_LOGITS = 1 << 24
"""Logits of one model that are held at once: 64 MB in float32, 341 tokens of a vocabulary of 49,152."""


class TextDrift(BaseModel):
    """One text's sums over the tokens that are predicted: all but its first.

    Attributes:
        tokens: How many they are.
        nll: Negative log-likelihood of the text, in nats.
        kl: ``KL(base || model)`` summed over the tokens, in nats.
    """

    tokens: int
    nll: float
    kl: float

    @property
    def kl_per_token(self) -> float:
        """Mean divergence from the base on this text, in nats per token."""
        return self.kl / self.tokens


class Drift(BaseModel):
    """All texts' sums in the order in which they were given."""

    rows: list[TextDrift]

    @property
    def tokens(self) -> int:
        """Predicted tokens of all texts."""
        return sum(row.tokens for row in self.rows)

    @property
    def kl(self) -> float:
        """Mean divergence from the base, in nats per token: a long text counts more than a short one."""
        return sum(row.kl for row in self.rows) / self.tokens

    @property
    def perplexity(self) -> float:
        """Exponential of the mean negative log-likelihood of a token."""
        return math.exp(sum(row.nll for row in self.rows) / self.tokens)


def measure_drift(
    model: Any,
    tokenizer: Any,
    texts: Sequence[str],
    *,
    max_tokens: int = 512,
    max_batch_tokens: int = _MAX_BATCH_TOKENS,
    base: Any = None,
    on_done: Callable[[int], None] | None = None,
) -> Drift:
    """Read texts with a model and with its base.

    Args:
        model: In evaluation mode: a PEFT model, whose adapters are switched off to have the base; or a base, which is
            read once and whose divergence is zero.
        tokenizer: Its tokenizer; texts begin without a special token.
        texts: At least one.
        max_tokens: Longer texts are cut there.
        max_batch_tokens: Bound on rows times length of what is read together; bounds memory.
        base: The base of a whole model that was fine-tuned, in evaluation mode.
        on_done: Called with the number of texts that were just finished.

    Returns:
        One row a text.

    Raises:
        ValueError: There is no text, or one has fewer than two tokens, so that nothing predicts one.
    """
    if not texts:
        raise ValueError("No text to read; give at least one.")
    encoded = [tokenizer.encode(text, add_special_tokens=False)[:max_tokens] for text in texts]
    for text, ids in zip(texts, encoded, strict=True):
        if len(ids) < 2:
            raise ValueError(f"The text {text!r}, cut at max_tokens={max_tokens}, has fewer than two tokens.")
    rows: dict[int, TextDrift] = {}
    with torch.inference_mode():
        for batch in _batches(encoded, max_batch_tokens):
            read = _read(model, base, [encoded[index] for index in batch], len(tokenizer))
            rows.update(zip(batch, read, strict=True))
            if on_done is not None:
                on_done(len(batch))
    return Drift(rows=[rows[index] for index in range(len(texts))])


def _batches(encoded: Sequence[list[int]], max_batch_tokens: int) -> Iterator[list[int]]:
    """Indices of texts that are read together: of similar length, longest first."""
    waiting = sorted(range(len(encoded)), key=lambda index: len(encoded[index]))
    while waiting:
        rows = max(1, max_batch_tokens // len(encoded[waiting[-1]]))
        yield waiting[-rows:]
        del waiting[-rows:]


def _read(model: Any, base: Any, texts: Sequence[list[int]], vocabulary: int) -> list[TextDrift]:
    """Sums of texts that are read together; padding stands behind a text's end, where a causal model does not look."""
    device = next(model.parameters()).device
    lengths = torch.tensor([len(text) for text in texts])
    last = int(lengths.max()) - 1
    ids = torch.tensor([text + [0] * (last + 1 - len(text)) for text in texts]).to(device)
    is_token = torch.arange(last + 1) < lengths.unsqueeze(1)
    nll, kl = torch.zeros(2, len(texts), dtype=torch.float64)
    own_cache, base_cache = host.empty_cache(model), host.empty_cache(model)
    width = max(1, _MAX_LOGITS // (len(texts) * vocabulary))
    for start in range(0, last, width):
        stop = min(start + width, last)
        counted = is_token[:, start + 1 : stop + 1]
        ours = _log_probabilities(model, ids[:, start:stop], own_cache)
        of_targets = ours.gather(-1, ids[:, start + 1 : stop + 1, None]).squeeze(-1)
        nll -= (of_targets.cpu().double() * counted).sum(-1)
        if base is not None or hasattr(model, "disable_adapter"):
            with nullcontext() if base is not None else host.adapters_off(model):
                theirs = _log_probabilities(model if base is None else base, ids[:, start:stop], base_cache)
            divergence = F.kl_div(ours, theirs, reduction="none", log_target=True).sum(-1)
            kl += (divergence.cpu().double() * counted).sum(-1)
    return [
        TextDrift(tokens=length - 1, nll=own, kl=apart)
        for length, own, apart in zip(lengths.tolist(), nll.tolist(), kl.tolist(), strict=True)
    ]


def _log_probabilities(model: Any, ids: torch.Tensor, cache: Any) -> torch.Tensor:
    """Of the token after each of ``ids`` (``(rows, n)``), which continue ``cache``; float32 ``(rows, n, vocab)``."""
    logits = model(input_ids=ids, use_cache=True, **{host.cache_argument(model): cache}).logits
    return logits.float().log_softmax(-1)
