"""What a memory must remember between decoding steps, riding on the key-value cache.

The n-grams at a position reach back over earlier tokens and the convolution over what was read at earlier positions.
Both live in one extra entry of the cache's own list of layers, so that whatever generation does to the cache (reorder
beams, crop rejected drafts, repeat, select) happens to them in the same call, and nothing is kept on a module between
calls.

A decoding step looks back over a fixed number of places, so that many are kept and no more, with some room to crop:
however long the text, the state is as large and a step as fast.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from tinyengram import host

# Places kept beyond what a step looks back over, for as many tokens can be cropped. A model that verifies drafts takes
# back those of one round, a model that drafts all that it wrote in one: 20 in transformers unless told otherwise, and 2
# more after each round that was right throughout. 128 is six times that, and with four memories 0.3% of the key-value
# cache of a 135M model at 8,192 tokens.
MARGIN = 128
# Free places behind a window: so many steps write in place before it is moved.
_SPARE = 64


class ForgottenError(ValueError):
    """The cache was cropped to where the memory no longer knows what it must look back at."""


class Window:
    """The last places of a timeline ``(batch, time, …)`` that grows and is cropped at its end.

    Args:
        buffer: ``(batch, capacity, …)``.
        begin, end: The places of ``buffer`` that are kept.
        total: Places of the timeline, kept or not.
    """

    def __init__(self, buffer: torch.Tensor, begin: int, end: int, total: int) -> None:
        self._buffer, self._begin, self._end, self.total = buffer, begin, end, total

    @classmethod
    def empty(cls, like: torch.Tensor) -> Window:
        """A timeline that has not begun, of the batch, type and device of ``like`` ``(batch, time, …)``."""
        return cls(like.new_empty(like.shape[0], 0, *like.shape[2:]), 0, 0, 0)

    @property
    def kept(self) -> torch.Tensor:
        """``(batch, places kept, …)``, a view that the next :meth:`append` may write behind but never within."""
        return self._buffer[:, self._begin : self._end]

    @property
    def first(self) -> int:
        """The first place of the timeline that is kept."""
        return self.total - (self._end - self._begin)

    def append(self, new: torch.Tensor, keep: int) -> None:
        """Add places ``(batch, time, …)``, and keep the last ``keep`` at most.

        A graph that is replayed writes over what it returned before (CUDA graphs), so a compiled step keeps nothing
        that it makes: it writes into the buffer that it was given.
        """
        length, buffer = new.shape[1], self._buffer
        same = len(new) == len(buffer) and new.dtype == buffer.dtype
        if same and length < keep and self._end + length <= buffer.shape[1] and _writable(buffer):
            buffer[:, self._end : self._end + length] = new
            self._end += length
        else:
            new = new[:, -keep:] if keep else new[:, :0]
            old = self.kept[:, max(0, self._end - self._begin - (keep - new.shape[1])) :]
            places = old.shape[1] + new.shape[1]
            if torch.compiler.is_compiling() and same and places <= buffer.shape[1]:
                buffer[:, :places] = torch.cat([old, new], dim=1)
            else:
                spare = new.new_empty(new.shape[0], keep + _SPARE - places, *new.shape[2:])
                self._buffer = torch.cat([old, new, spare], dim=1)
            self._begin, self._end = 0, places
        self._begin = max(self._begin, self._end - keep)
        self.total += length

    def skip_to(self, total: int, keep: int) -> None:
        """Add zeros up to place ``total``, and keep the last ``keep`` places at most."""
        if missing := total - self.total:
            shape = (len(self._buffer), min(missing, keep), *self._buffer.shape[2:])
            self.append(self._buffer.new_zeros(shape), keep)
            self.total = total

    def crop(self, total: int) -> None:
        """Forget all places from ``total`` on."""
        if total < self.total:
            self._end = max(self._begin, self._end - (self.total - total))
            self.total = total

    def changed(self, change: Callable[[torch.Tensor], torch.Tensor]) -> Window:
        """A window on rows that ``change`` makes of the kept ones, ``(batch, places kept, …)``."""
        kept = change(self.kept)
        return Window(kept, 0, kept.shape[1], self.total)

    def shifted(self, rows: torch.Tensor, surplus: torch.Tensor) -> Window:
        """The given rows, each moved towards the end by its ``surplus``, which drops so many of its last places.

        Args:
            rows, surplus: int64 ``(new batch,)``.

        Returns:
            A window that holds zeros before a row's first place, and is shorter by the largest surplus where places
            before it were not kept.
        """
        kept, device = self.kept, self._buffer.device
        unknown = int(surplus.max()) if self.first else 0
        place = torch.arange(unknown, kept.shape[1]) - surplus.unsqueeze(1)
        moved = kept[rows.unsqueeze(1).to(device), place.clamp(min=0).to(device)]
        before = (place < 0).to(device).view(*place.shape, *[1] * (kept.dim() - 2))
        moved = moved.masked_fill(before, 0)
        return Window(moved, 0, moved.shape[1], self.total)


def _writable(buffer: torch.Tensor) -> bool:
    """Whether it can be written to: what was made in inference mode cannot outside of it.

    A compiled graph cannot ask; PyTorch refuses by name where it does so all the same.
    """
    return torch.compiler.is_compiling() or torch.is_inference_mode_enabled() or not buffer.is_inference()


class EngramCacheLayer(host.bystander_layer()):  # type: ignore[misc]
    """The last tokens, and what each memory's convolution read at them; an entry of ``Cache.layers``.

    Attributes:
        length: Number of tokens so far, kept or not.
        plain: Whether each row has been one text from its first token on, without padding, as far as callers said.
        values: For each (adapter, layer id) a window on ``(batch, length, hidden)``: inputs of the convolution.
    """

    # What `transformers.Cache` asks of its layers.
    is_croppable = True
    is_initialized = True
    supports_early_init = False
    keys = None
    length: int
    plain: bool
    values: dict[tuple[str, int], Window]
    _ids: Window | None
    _room: int

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
    def first(self) -> int:
        """The first place whose token is kept."""
        return self.length if self._ids is None else self._ids.first

    @property
    def tokens(self) -> torch.Tensor:
        """The last tokens' raw ids, int64 ``(batch, places kept)``."""
        return self._kept[..., 0]

    @property
    def texts(self) -> torch.Tensor:
        """Tokens with equal numbers belong to one text, 0 is padding; int64 ``(batch, places kept)``."""
        return self._kept[..., 1]

    @property
    def positions(self) -> torch.Tensor:
        """The last tokens' position ids, int64 ``(batch, places kept)``."""
        return self._kept[..., 2]

    @property
    def _kept(self) -> torch.Tensor:
        return torch.empty(0, 0, 3, dtype=torch.long) if self._ids is None else self._ids.kept

    def extend(
        self,
        tokens: torch.Tensor,
        texts: torch.Tensor | None,
        positions: torch.Tensor | None,
        *,
        reach: int,
        behind: int = 0,
    ) -> None:
        """Append a chunk.

        Args:
            tokens, texts, positions: int64 ``(batch, length)``; the last two are None where all that was read and is
                read now is plain.
            reach: Places that a step looks back over.
            behind: Places of padding behind the chunk's shortest row, kept beyond the window: who reads rows of unequal
                length together takes it off again (:meth:`shift`).
        """
        self.plain = texts is None
        if texts is None or positions is None:
            texts = torch.ones_like(tokens)
            places = torch.arange(self.length, self.length + tokens.shape[1], device=tokens.device)
            positions = places.expand_as(tokens)
        chunk = torch.stack([tokens, texts, positions], dim=-1)
        if self._ids is None:
            self._ids = Window.empty(chunk)
        self._room = MARGIN + behind
        self._ids.append(chunk, reach + self._room)
        self.length += tokens.shape[1]

    def remember(self, key: tuple[str, int], values: torch.Tensor, reach: int) -> None:
        """Append what the convolution of ``key`` read at the newest chunk, ``(batch, length, hidden)``.

        Where the memory was switched off for a while it read nothing: zeros.
        """
        if key not in self.values:
            self.values[key] = Window.empty(values)
        window, keep = self.values[key], reach + self._room
        window.skip_to(self.length - values.shape[1], keep)
        window.append(values, keep)

    def reaches(self, key: tuple[str, int], reach: int, length: int) -> bool:
        """Whether anything is noted of ``key`` at the ``reach`` positions before the newest ``length``."""
        window = self.values.get(key)
        return window is not None and window.total > max(0, self.length - length - reach)

    def recall(self, key: tuple[str, int], reach: int, like: torch.Tensor) -> torch.Tensor | None:
        """What the convolution of ``key`` read at the last ``reach`` positions before the newest chunk.

        Args:
            key: Adapter and layer id.
            reach: Positions to look back.
            like: The newest chunk, ``(batch, length, hidden)``.

        Returns:
            ``(batch, reach, hidden)``, zeros before the start and where the memory was off; None where all are.

        Raises:
            ForgottenError: The cache was cropped by more than is kept.
        """
        if not self.reaches(key, reach, like.shape[1]):
            return None
        window, before = self.values[key], self.length - like.shape[1]
        wanted = max(0, before - reach)
        if window.first > wanted:
            raise self.forgotten(window.first - wanted)
        known = window.kept[:, wanted - window.first :]
        if known.shape[1] == reach:
            return known
        recalled = like.new_zeros(like.shape[0], reach, like.shape[2])
        at = wanted - (before - reach)
        recalled[:, at : at + known.shape[1]] = known
        return recalled

    def forgotten(self, places: int) -> ForgottenError:
        """What to raise where ``places`` that must be looked back at are not kept."""
        return ForgottenError(
            f"The key-value cache was cropped too far: the memory lacks {places} of the places it looks back over. It "
            f"can go back by {MARGIN} tokens (tinyengram.memory.cache.MARGIN). Copy a cache (copy.deepcopy) where "
            "you will come back to, read the text again with a fresh cache, or use disable_adapter() to run the base."
        )

    # --- what generation does to a cache -------------------------------------------------------------------------

    def _change(self, change: Callable[[Window], Window]) -> None:
        """Replace each window; a copy of this entry that shares them keeps them as they were."""
        self._ids = None if self._ids is None else change(self._ids)
        self.values = {key: change(window) for key, window in self.values.items()}

    def _change_rows(self, change: Callable[[torch.Tensor], torch.Tensor]) -> None:
        self._change(lambda window: window.changed(change))

    def shift(self, rows: Sequence[int], surplus: Sequence[int]) -> None:
        """Become the given rows without their last ``surplus`` places, moved so that rows end together.

        The length stays: as many places are empty at a row's beginning instead.
        """
        self.plain = False
        for window in self.values.values():
            window.skip_to(self.length, self.length)
        self._change(lambda window: window.shifted(torch.tensor(rows), torch.tensor(surplus)))

    def reorder_cache(self, beam_idx: torch.Tensor) -> None:
        self._change_rows(lambda tensor: tensor.index_select(0, beam_idx.to(tensor.device)))

    def batch_select_indices(self, indices: torch.Tensor) -> None:
        self._change_rows(lambda tensor: tensor[indices.to(tensor.device)])

    def batch_repeat_interleave(self, repeats: int) -> None:
        self._change_rows(lambda tensor: tensor.repeat_interleave(repeats, dim=0))

    def crop(self, length: int) -> None:
        """Drop ``-length`` tokens from the end, or, for a positive ``length`` (older transformers), keep so many."""
        self.length = min(self.length, length) if length > 0 else max(0, self.length + length)
        for window in (self._ids, *self.values.values()):
            if window is not None:
                window.crop(self.length)

    def reset(self) -> None:
        self.length, self._room, self.plain = 0, MARGIN, True
        self._ids = None
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
