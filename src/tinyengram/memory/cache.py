"""What a memory must remember between decoding steps, riding on the key-value cache.

The n-grams at a position reach back over earlier tokens and the convolution over what was read at earlier positions.
Both live in one extra entry of the cache's own list of layers, so that whatever generation does to the cache (reorder
beams, crop rejected drafts, repeat, select) happens to them in the same call, and nothing is kept on a module between
calls.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from tinyengram import host


class EngramCacheLayer(host.bystander_layer()):  # type: ignore[misc]
    """The tokens so far, and what each memory's convolution read at them; an entry of ``Cache.layers``.

    Attributes:
        tokens: int64 ``(batch, length)``, raw token ids so far.
        texts: int64 ``(batch, length)``, tokens with equal numbers belong to one text; 0 is padding.
        positions: int64 ``(batch, length)``, position ids.
        values: For each (adapter, layer id) ``(batch, length, hidden)``: inputs of the convolution.
    """

    # What `transformers.Cache` asks of its layers.
    is_croppable = True
    is_initialized = True
    supports_early_init = False
    keys = None
    values: dict[tuple[str, int], torch.Tensor]

    def __init__(self) -> None:
        self.reset()

    @classmethod
    def on(cls, cache: Any, n_layers: int) -> EngramCacheLayer:
        """The entry on ``cache``, added behind its ``n_layers`` ordinary layers if it is not there yet."""
        for layer in cache.layers:
            if isinstance(layer, cls):
                return layer
        host.make_missing_layers(cache, n_layers)
        return cls().join(cache)

    def join(self, cache: Any) -> EngramCacheLayer:
        """Become the last entry of ``cache``."""
        # Like the first layer, so that code which looks for the first layer of a kind never finds this one, and masks
        # are made as they are without it.
        first = cache.layers[0] if cache.layers else None
        self.is_sliding = bool(getattr(first, "is_sliding", False))
        self.is_compileable = bool(getattr(first, "is_compileable", False))
        cache.layers.append(self)
        return self

    @property
    def length(self) -> int:
        """Number of tokens so far."""
        return self.tokens.shape[1]

    def extend(self, tokens: torch.Tensor, texts: torch.Tensor, positions: torch.Tensor) -> None:
        """Append a chunk, each ``(batch, length)``."""
        if not self.length:
            self.tokens, self.texts, self.positions = tokens, texts, positions
            return
        self.tokens = torch.cat([self.tokens, tokens], dim=1)
        self.texts = torch.cat([self.texts, texts], dim=1)
        self.positions = torch.cat([self.positions, positions], dim=1)

    def remember(self, key: tuple[str, int], values: torch.Tensor) -> None:
        """Append what the convolution of ``key`` read at the newest chunk, ``(batch, length, hidden)``.

        Where the memory was switched off for a while it read nothing: zeros.
        """
        before = self.length - values.shape[1]
        past = self.values.get(key)
        parts = [values] if past is None else [past, values]
        missing = before - (0 if past is None else past.shape[1])
        if missing:
            parts.insert(len(parts) - 1, values.new_zeros(values.shape[0], missing, values.shape[2]))
        self.values[key] = torch.cat(parts, dim=1) if len(parts) > 1 else values

    def recall(self, key: tuple[str, int], reach: int, like: torch.Tensor) -> torch.Tensor:
        """What the convolution of ``key`` read at the last ``reach`` positions before the newest chunk.

        Args:
            key: Adapter and layer id.
            reach: Positions to look back.
            like: The newest chunk, ``(batch, length, hidden)``.

        Returns:
            ``(batch, reach, hidden)``, zeros before the start and where the memory was off.
        """
        past = self.values.get(key)
        before = self.length - like.shape[1]
        recalled = like.new_zeros(like.shape[0], reach, like.shape[2])
        if past is not None:
            # Positions [before - reach, before) as far as they were read.
            first = max(0, before - reach)
            known = past[:, first:before]
            if known.shape[1]:
                at = first - (before - reach)
                recalled[:, at : at + known.shape[1]] = known
        return recalled

    # --- what generation does to a cache -------------------------------------------------------------------------

    def transform(self, change: Callable[[torch.Tensor], torch.Tensor]) -> None:
        if not self.length:
            return
        self.tokens, self.texts = change(self.tokens), change(self.texts)
        self.positions = change(self.positions)
        self.values = {key: change(value) for key, value in self.values.items()}

    def reorder_cache(self, beam_idx: torch.Tensor) -> None:
        self.transform(lambda tensor: tensor.index_select(0, beam_idx.to(tensor.device)))

    def batch_select_indices(self, indices: torch.Tensor) -> None:
        self.transform(lambda tensor: tensor[indices.to(tensor.device)])

    def batch_repeat_interleave(self, repeats: int) -> None:
        self.transform(lambda tensor: tensor.repeat_interleave(repeats, dim=0))

    def crop(self, length: int) -> None:
        """Drop ``-length`` tokens from the end, or, for a positive ``length`` (older transformers), keep so many."""
        keep = length if length > 0 else self.length + length
        self.transform(lambda tensor: tensor[:, :keep])

    def reset(self) -> None:
        self.tokens = self.texts = self.positions = torch.empty(0, 0, dtype=torch.long)
        self.values = {}

    def get_seq_length(self) -> int:
        return self.length

    def get_max_length(self) -> int:
        return -1

    get_max_cache_shape = get_max_length

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.length + query_length, 0

    def lazy_initialization(self, *_: Any) -> None: ...

    def offload(self) -> None: ...

    def prefetch(self) -> None: ...
