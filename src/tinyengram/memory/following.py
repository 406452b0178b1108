"""What is read next, on top of what a cache remembers: a chunk of tokens becomes a :class:`Reading`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from tinyengram import host
from tinyengram.memory.cache import MARGIN, EngramCacheLayer
from tinyengram.memory.reading import Reading
from tinyengram.memory.texts import behind_zeros, mask_of, padding_behind, read_texts


def lacking_places(state: EngramCacheLayer, reach: int) -> int:
    """Places that must be looked back at and are not kept; 0 or less where all are."""
    return state.first - max(0, state.length - reach)


def follow(
    given: dict[str, Any],
    cache: Any,
    state: EngramCacheLayer,
    *,
    reach: int,
    rows_of: Callable[[str, int, Reading], torch.Tensor],
) -> Reading:
    """Read a chunk, and note it in ``state``.

    Args:
        given: Arguments of the decoder's forward pass, ``input_ids`` among them.
        cache: Among them; None: there is none yet.
        state: What rides on it.
        reach: Places that are looked back over.
        rows_of: For the reading.

    Raises:
        ValueError: The cache was filled by another model.
    """
    ids: torch.Tensor = given["input_ids"]
    length, past = ids.shape[1], state.length
    if cache is not None and host.length_of(cache, past) != past:
        raise ValueError(
            f"The key-value cache holds {host.length_of(cache, past)} tokens but the memory saw {past} of them: "
            "it was filled without this model. Read the prompt again with a fresh cache."
        )
    if cache is not None and past == 0 and torch.compiler.is_compiling():
        _refuse_filled(cache)
    seen = state if state.first < past else None
    positions, mask = given.get("position_ids"), mask_of(given.get("attention_mask"))
    tokens, texts, timeline = ids, None, None
    if seen is not None and reach:
        tokens = torch.cat([seen.tokens[:, -reach:], ids], dim=1)
    # Known without a look at values, on which no compiled graph can depend.
    if positions is not None or mask is not None or not state.plain:
        texts, positions = read_texts(ids, positions, mask, past, seen)
        tokens, timeline = behind_zeros(tokens, length + reach), texts
        if seen is not None and reach:
            timeline = torch.cat([seen.texts[:, -reach:], texts], dim=1)
        timeline = behind_zeros(timeline, length + reach)
    kept = cache is not None or given.get("use_cache") is not False
    if kept:
        behind = 0
        # Up to the margin a chunk is kept whole, and on a GPU it costs a wait to ask how much of it is padding.
        if length > MARGIN and mask is not None and texts is not None:
            behind = length if torch.compiler.is_compiling() else padding_behind(texts)
        state.extend(ids, texts, positions, reach=reach, behind=behind)
    return Reading(tokens=tokens, texts=timeline, length=length, rows_of=rows_of, state=state if kept else None)


def _refuse_filled(cache: Any) -> None:
    """Have a graph that is being compiled stop, as it runs, at a cache that counts tokens in a tensor and has some.

    No graph can depend on the count, so that :func:`tinyengram.host.length_of` cannot tell it there.
    """
    length = cache.get_seq_length()
    if isinstance(length, torch.Tensor):
        torch._assert_async(length == 0, "The key-value cache was filled without this model: begin with a fresh one.")
