"""Which tokens belong to one text: what a caller's mask and position ids say of a chunk, and of its past."""

from __future__ import annotations

from typing import Any

import torch
from torch.nn import functional as F

from tinyengram.memory.cache import EngramCacheLayer


def padding_behind(texts: torch.Tensor) -> int:
    """Places of padding behind the shortest row; ``texts`` is int64 ``(batch, length)``, 0 for padding."""
    place = torch.arange(1, texts.shape[1] + 1, device=texts.device)
    return texts.shape[1] - int((place * (texts > 0)).amax(1).min())


def behind_zeros(timeline: torch.Tensor, length: int) -> torch.Tensor:
    """``timeline`` ``(batch, time)`` with as many zeros before it as it lacks to ``length``."""
    return F.pad(timeline, (length - timeline.shape[1], 0)) if timeline.shape[1] < length else timeline


def read_texts(
    ids: torch.Tensor,
    positions: torch.Tensor | None,
    mask: torch.Tensor | None,
    past: int,
    seen: EngramCacheLayer | None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Numbers of the texts that a chunk's tokens belong to, and their positions; each int64 ``(batch, length)``."""
    batch, length = ids.shape
    if positions is None:
        last = ids.new_full((batch, 1), past - 1) if seen is None else seen.positions[:, -1:]
        positions = last + torch.arange(1, length + 1, device=ids.device)
    else:
        # Multimodal models give one plane of positions for each axis; text counts along the first.
        positions = positions.reshape(-1, *positions.shape[-2:])[0].expand(batch, length)
    valid, attends_previous = _what_mask_says(mask, past, batch, length, ids.device)
    before = (None, None) if seen is None else (seen.texts, seen.positions)
    return number_texts(valid, positions, attends_previous, *before), positions


def mask_of(given: Any) -> torch.Tensor | None:
    """The mask among masks by kind of attention, or the only one; None where it is no tensor."""
    if isinstance(given, dict):
        given = given.get("full_attention", next(iter(given.values()), None))
    return given if isinstance(given, torch.Tensor) else None


def _what_mask_says(
    mask: torch.Tensor | None, past: int, batch: int, length: int, device: torch.device
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Which tokens of a chunk are real, and which attend to the one before them.

    Args:
        mask: None; bool or int ``(batch, past + length)``; or a block mask ``(batch, 1, length, past + length)``, bool
            or added to the scores.

    Returns:
        bool ``(batch, length)``, and bool ``(batch, length)`` or None where the mask does not say.
    """
    if mask is None:
        return torch.ones(batch, length, dtype=torch.bool, device=device), None
    if mask.dim() == 2:
        return mask[:, past : past + length].bool().expand(batch, length), None
    allowed = mask if mask.dtype == torch.bool else mask == 0
    allowed = allowed[:, 0]
    # The mask of a sliding window leaves out the columns of tokens that have fallen out of it.
    newest = past - max(0, past + length - mask.shape[-1])
    query = torch.arange(length, device=device)
    itself = allowed[:, query, newest + query]
    previous = allowed[:, query, (newest + query - 1).clamp(min=0)]
    if not past:
        previous = previous & (query > 0)
    return itself.expand(batch, length), previous.expand(batch, length)


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
