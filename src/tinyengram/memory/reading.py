"""What a model reads during one forward pass, in the terms that memories need: windows of tokens within one text."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field

import torch

from tinyengram.memory.cache import EngramCacheLayer


class ReadingSlot:
    """The place where a model leaves its current :class:`Reading` for its layers; empty between forward passes.

    Each thread has its own, so that several can run one model at a time. (A ``threading.local`` would do, but compiled
    code does not see what it holds.)
    """

    def __init__(self) -> None:
        self._of_thread: dict[int, Reading] = {}

    @property
    def reading(self) -> Reading | None:
        """What this thread's forward pass reads."""
        return self._of_thread.get(threading.get_ident())

    def put(self, reading: Reading) -> None:
        """Begin a forward pass."""
        self._of_thread[threading.get_ident()] = reading

    def take(self) -> Reading | None:
        """End it."""
        return self._of_thread.pop(threading.get_ident(), None)


@dataclass
class Reading:
    """Tokens of one forward pass with as much of their past as memories reach back to.

    Attributes:
        tokens: int64 ``(batch, past + length)``, raw ids; the last ``length`` are being read now.
        texts: int64 ``(batch, past + length)``; tokens with equal numbers belong to one text, 0 is no text.
        length: Tokens being read now.
        rows_of: Finds the table rows for (adapter, layer id, reading).
        state: What rides on the key-value cache; None where none will be kept.
    """

    tokens: torch.Tensor
    texts: torch.Tensor
    length: int
    rows_of: Callable[[str, int, Reading], torch.Tensor]
    state: EngramCacheLayer | None
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
        ids = self.tokens
        if compression is not None:
            # Tokens that were added to the base later have no canonical id.
            known = ids < len(compression)
            ids = torch.where(known, compression[ids.where(known, 0)].long(), pad)
        same_text = self.same_text(width, 1)
        columns = [torch.where(same_text[..., back], self._back(ids, back), pad) for back in range(width)]
        return torch.stack(columns, dim=-1)

    def same_text(self, steps: int, stride: int) -> torch.Tensor:
        """Whether the token ``k * stride`` positions back belongs to the same text, bool ``(batch, length, steps)``."""
        now = self._back(self.texts, 0)
        return torch.stack([(self._back(self.texts, k * stride) == now) & (now > 0) for k in range(steps)], dim=-1)

    def recall(self, key: tuple[str, int], reach: int, newest: torch.Tensor) -> torch.Tensor:
        """What a convolution read at the ``reach`` positions before the chunk; remembers the chunk.

        Args:
            key: Adapter and layer id.
            reach: Positions to look back.
            newest: What it reads now, ``(batch, length, hidden)``.

        Returns:
            ``(batch, reach, hidden)``.
        """
        if self.state is None:
            return newest.new_zeros(newest.shape[0], reach, newest.shape[2])
        past = self.state.recall(key, reach, newest)
        self.state.remember(key, newest.detach(), reach)
        return past

    def _back(self, timeline: torch.Tensor, distance: int) -> torch.Tensor:
        """The part of ``timeline`` that lies ``distance`` before the tokens being read."""
        first = timeline.shape[1] - self.length - distance
        return timeline[:, first : first + self.length]


def number_texts(
    valid: torch.Tensor,
    positions: torch.Tensor,
    attends_previous: torch.Tensor | None,
    past_texts: torch.Tensor | None,
    past_positions: torch.Tensor | None,
) -> torch.Tensor:
    """Number the texts that a chunk of tokens belongs to.

    A token continues the text of the one before it when neither is padding, its position id is the next one (packed
    documents begin again at 0) and, where the attention mask says so, it attends to it.

    Args:
        valid: bool ``(batch, length)``, False for padding.
        positions: int64 ``(batch, length)``.
        attends_previous: bool ``(batch, length)``, from a block mask; None when there is none.
        past_texts, past_positions: int64 ``(batch, past)`` of the last tokens before the chunk, as many as anything
            looks back over; None at the start.

    Returns:
        int64 ``(batch, length)``, 0 for padding; unlike the number of any other text among the last tokens.
    """
    if past_texts is None or past_positions is None or not past_texts.shape[1]:
        highest = torch.zeros_like(positions[:, :1])
        last_valid = torch.zeros_like(valid[:, :1])
        last_position = positions[:, :1]
    else:
        highest = past_texts.amax(dim=1, keepdim=True)
        last_valid = past_texts[:, -1:] > 0
        last_position = past_positions[:, -1:]
    before_valid = torch.cat([last_valid, valid[:, :-1]], dim=1)
    before_position = torch.cat([last_position, positions[:, :-1]], dim=1)
    joined = before_valid & (positions == before_position + 1)
    if attends_previous is not None:
        joined = joined & attends_previous
    return (highest + (valid & ~joined).cumsum(dim=1)) * valid
