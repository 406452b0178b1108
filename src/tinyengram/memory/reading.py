"""What a model reads during one forward pass, in the terms that memories need: windows of tokens within one text."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field

import torch

from tinyengram.memory.cache import EngramCacheLayer


class ReadingSlot:
    """The place where a model leaves its current :class:`Reading` for its layers; empty between forward passes.

    Each thread has its own, so that several can run one model at a time. Code that is being compiled knows no threads:
    there the place is one plain attribute, which becomes part of the graph and is not touched when that runs.
    """

    def __init__(self) -> None:
        self._of_thread: dict[int, Reading] = {}
        self._traced: Reading | None = None

    @property
    def reading(self) -> Reading | None:
        """What this thread's forward pass reads."""
        if torch.compiler.is_compiling() and self._traced is not None:
            return self._traced
        return self._of_thread.get(threading.get_ident(), self._traced)

    def put(self, reading: Reading) -> None:
        """Begin a forward pass."""
        if torch.compiler.is_compiling():
            self._traced = reading
        else:
            self._of_thread[threading.get_ident()] = reading

    def take(self) -> Reading | None:
        """End it."""
        if self._traced is not None:
            reading, self._traced = self._traced, None
            return reading
        return None if torch.compiler.is_compiling() else self._of_thread.pop(threading.get_ident(), None)


@dataclass
class Reading:
    """Tokens of one forward pass with as much of their past as memories reach back to.

    Attributes:
        tokens: int64 ``(batch, past + length)``, raw ids; the last ``length`` are being read now.
        texts: int64 ``(batch, past + length)``; tokens with equal numbers belong to one text, 0 is no text. None where
            the caller named neither padding nor places: each row is one text, and what lies before ``tokens`` is none.
        length: Tokens being read now.
        rows_of: Finds the table rows for (adapter, layer id, reading).
        state: What rides on the key-value cache; None where none will be kept.
        opened: For each adapter with a latch, bool ``(batch, length)``: where its memory is open.
        fetched: What is on its way from tables on the host, for each (adapter, layer id).
    """

    tokens: torch.Tensor
    texts: torch.Tensor | None
    length: int
    rows_of: Callable[[str, int, Reading], torch.Tensor]
    state: EngramCacheLayer | None
    opened: dict[str, torch.Tensor] = field(default_factory=dict)
    fetched: dict[tuple[str, int], torch.Tensor] = field(default_factory=dict)
    _memo: dict[tuple, torch.Tensor] = field(default_factory=dict)

    def rows(self, adapter_name: str, layer_id: int) -> torch.Tensor:
        """Table rows at each position for one memory, int64 ``(batch, length, rows per position)``."""
        return self.rows_of(adapter_name, layer_id, self)

    def once(self, key: tuple, compute: Callable[[], torch.Tensor]) -> torch.Tensor:
        """``compute()``, done once for each ``key`` in a forward pass: layers share what does not depend on them."""
        if key not in self._memo:
            self._memo[key] = compute()
        return self._memo[key]

    def window(self, width: int, pad: torch.Tensor, compression: torch.Tensor | None) -> torch.Tensor:
        """Each token with the ``width - 1`` before it, newest first; ``pad`` where the text had not begun.

        Args:
            width: Tokens per window.
            pad: Compressed id that stands for positions before a text.
            compression: int ``(vocab,)`` map onto canonical ids, or None for raw ids.

        Returns:
            int64 ``(batch, length, width)``.
        """
        ids = self.tokens[:, -(self.length + width - 1) :]
        if compression is not None:
            # Tokens that were added to the base later have no canonical id.
            known = ids < len(compression)
            ids = torch.where(known, compression[ids.where(known, 0)].long(), pad)
        if lacking := self.length + width - 1 - ids.shape[1]:
            ids = torch.cat([pad.expand(len(ids), lacking), ids], dim=1)
        windows = ids.unfold(1, width, 1).flip(-1)
        same_text = self.same_text(width, 1)
        return windows if same_text is None else torch.where(same_text, windows, pad)

    def same_text(self, steps: int, stride: int) -> torch.Tensor | None:
        """Whether the token ``k * stride`` positions back belongs to the same text, bool ``(batch, length, steps)``.

        None where each row is one text, so that it does wherever there is such a token.
        """
        texts = self.texts
        return None if texts is None else self.once((steps, stride), lambda: self._same_text(texts, steps, stride))

    def _same_text(self, texts: torch.Tensor, steps: int, stride: int) -> torch.Tensor:
        span = (steps - 1) * stride
        now = texts[:, -self.length :].unsqueeze(-1)
        back = texts[:, -(self.length + span) :].unfold(1, span + 1, 1)[..., ::stride].flip(-1)
        return (back == now) & (now > 0)

    def recall(self, key: tuple[str, int], reach: int, newest: torch.Tensor) -> torch.Tensor | None:
        """What a convolution read at the ``reach`` positions before the chunk; remembers the chunk.

        Args:
            key: Adapter and layer id.
            reach: Positions to look back.
            newest: What it reads now, ``(batch, length, hidden)``.

        Returns:
            ``(batch, reach, hidden)``; None where it read nothing, which is zeros.
        """
        if self.state is None:
            return None
        past = self.state.recall(key, reach, newest)
        self.state.remember(key, newest.detach(), reach)
        return past

    def nothing_behind(self, key: tuple[str, int], reach: int) -> bool:
        """Whether a convolution has read nothing at the ``reach`` positions before the chunk, as far as is noted."""
        return self.state is None or not self.state.reaches(key, reach, self.length)
