"""Collecting the n-grams that an exact memory may open on, by counting in a corpus."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from tinyengram.memory.ngrams import KnownNgrams, map_digest, ngram_keys


def collect_ngrams(
    ids: Iterable[Sequence[int]],
    loss_mask: Iterable[Sequence[bool]] | None = None,
    *,
    orders: Sequence[int] = (2, 3, 4),
    min_count: int = 1,
    background: Iterable[Sequence[int]] | None = None,
    max_ngrams: int | None = None,
    compression: torch.Tensor | None = None,
    pad_token_id: int = 0,
) -> KnownNgrams:
    """Collect the n-grams that an exact memory may open on.

    With a ``loss_mask`` these are the n-grams that end where a token of the loss is to be predicted next: the memory
    then stays shut while it reads prompts. Streams: one text is held at a time, counts are kept as arrays.

    Args:
        ids: Token ids of the training texts, one sequence a text.
        loss_mask: For each text, True where a token counts in the loss (is to be predicted). ``None``: everywhere.
        orders: Orders to collect.
        min_count: Drop n-grams seen less often.
        background: Texts in which an n-gram must be relatively rarer than in ``ids`` to be kept.
        max_ngrams: Keep at most so many, the most frequent ones (ties: first in key order).
        compression: int64 ``(vocab,)`` from :func:`compress_vocabulary`, when the memory compresses its vocabulary.
        pad_token_id: Token that stands for positions before a text begins (the memory's ``pad_token_id``).

    Returns:
        The known n-grams, ready for ``EngramConfig(memory="exact", ngrams=…)``.

    Raises:
        ValueError: No n-gram is left, an argument is out of range, or ids and masks do not fit each other.

    Example:
        >>> known = collect_ngrams([[5, 6, 7, 8]], [[False, False, False, True]], orders=(2, 3))
        >>> known.ngrams.tolist()  # newest id first: 6 7 and 5 6 7, after which 8 is predicted
        [[7, 6, -1], [7, 6, 5]]
    """
    if min_count < 1 or (max_ngrams is not None and max_ngrams < 1):
        raise ValueError(f"min_count={min_count} and max_ngrams={max_ngrams} must be at least 1.")
    found = count_ngrams(ids, loss_mask, orders=orders, compression=compression, pad_token_id=pad_token_id)
    kept = found.counts >= min_count
    if background is not None:
        usual = count_ngrams(background, orders=orders, compression=compression, pad_token_id=pad_token_id)
        share = found.counts / max(1, found.positions)
        kept &= share > usual.count_of(found.keys) / max(1, usual.positions)
    ngrams, counts = found.ngrams[kept], found.counts[kept]
    if max_ngrams is not None and len(counts) > max_ngrams:
        most_frequent = np.sort(np.argsort(-counts, kind="stable")[:max_ngrams])
        ngrams = ngrams[most_frequent]
    if not len(ngrams):
        raise ValueError(
            f"No n-gram is left of {len(found.counts)} seen; lower min_count={min_count}, or check the loss mask."
        )
    vocabulary = None if compression is None else map_digest(compression)
    return KnownNgrams.of(torch.from_numpy(np.ascontiguousarray(ngrams)), vocabulary)


@dataclass(frozen=True)
class NgramCounts:
    """N-grams of a corpus.

    Attributes:
        ngrams: int64 ``(n, width)``, canonical ids newest first, -1 beyond an n-gram's order.
        keys: int64 ``(n,)``, ascending; one for each n-gram.
        counts: int64 ``(n,)``, how often each was seen.
        positions: How many positions were looked at, each of which ends one n-gram of every order.
    """

    ngrams: np.ndarray
    keys: np.ndarray
    counts: np.ndarray
    positions: int

    def is_of(self, order: int) -> np.ndarray:
        """Which n-grams are of this order, bool ``(n,)``."""
        return (self.ngrams >= 0).sum(1) == order

    def count_of(self, keys: np.ndarray) -> np.ndarray:
        """How often each key was seen; 0 for keys that were not."""
        if not len(self.keys):
            return np.zeros(len(keys), dtype=np.int64)
        at = np.searchsorted(self.keys, keys).clip(max=len(self.keys) - 1)
        return np.where(self.keys[at] == keys, self.counts[at], 0)


def count_ngrams(
    ids: Iterable[Sequence[int]],
    loss_mask: Iterable[Sequence[bool]] | None = None,
    *,
    orders: Sequence[int] = (2, 3, 4),
    compression: torch.Tensor | None = None,
    pad_token_id: int = 0,
) -> NgramCounts:
    """Count n-grams as :func:`collect_ngrams` does, whose arguments these are.

    Raises:
        ValueError: An argument is out of range, or ids and masks do not fit each other.
    """
    orders = tuple(sorted(set(orders)))
    if not orders or orders[0] < 1:
        raise ValueError(f"orders={orders!r}: give at least one n-gram order from 1 on.")
    if pad_token_id < 0:
        raise ValueError(f"pad_token_id={pad_token_id} is no token; give the memory's own.")
    lookup = None if compression is None else compression.numpy()
    pad = pad_token_id if lookup is None else int(lookup[pad_token_id])
    return _count(_windows(ids, loss_mask, orders[-1], pad, lookup), orders, orders[-1])


def _windows(
    ids: Iterable[Sequence[int]],
    loss_mask: Iterable[Sequence[bool]] | None,
    width: int,
    pad: int,
    lookup: np.ndarray | None,
) -> Iterator[np.ndarray]:
    """For each text int64 windows ``(n, width)``, newest id first, at the positions that predict the loss."""
    pairs = ((text, None) for text in ids) if loss_mask is None else zip(ids, loss_mask, strict=True)
    for text, mask in pairs:
        tokens = np.asarray(text, dtype=np.int64)
        if not len(tokens):
            continue
        if tokens.min() < 0:
            raise ValueError(f"A text holds the id {tokens.min()}: give token ids, not labels, in which some are -100.")
        if lookup is not None:
            tokens = lookup[tokens]
        padded = np.concatenate([np.full(width - 1, pad, dtype=np.int64), tokens])
        windows = np.lib.stride_tricks.sliding_window_view(padded, width)[:, ::-1]
        if mask is not None:
            if len(mask) != len(tokens):
                raise ValueError(f"A text of {len(tokens)} tokens has a loss mask of {len(mask)}; they must be equal.")
            counts = np.asarray(mask)
            if counts.dtype != bool and not np.isin(counts, (0, 1)).all():
                raise ValueError("A loss mask holds True and False (or 1 and 0); of labels give `label != -100`.")
            # The position before a token of the loss is the one that predicts it.
            windows = windows[:-1][counts[1:].astype(bool)]
        yield windows


def _count(windows: Iterable[np.ndarray], orders: Sequence[int], width: int) -> NgramCounts:
    """Count the n-grams of every order, merging blocks of about a million so that memory follows distinct n-grams."""
    seen = NgramCounts(np.empty((0, width), np.int64), np.empty(0, np.int64), np.empty(0, np.int64), 0)
    block: list[np.ndarray] = []
    size = 0
    for window in windows:
        block.append(window)
        size += len(window)
        if size >= 1 << 18:
            seen = _merge(seen, np.concatenate(block), orders)
            block, size = [], 0
    return _merge(seen, np.concatenate(block), orders) if size else seen


def _merge(seen: NgramCounts, windows: np.ndarray, orders: Sequence[int]) -> NgramCounts:
    """Add the n-grams that end in ``windows`` (n, width) to what was counted."""
    parts, counts = [seen.ngrams], [seen.counts]
    for order in orders:
        ngrams = np.full(windows.shape, -1, dtype=np.int64)
        ngrams[:, :order] = windows[:, :order]
        parts.append(ngrams)
        counts.append(np.ones(len(ngrams), dtype=np.int64))
    everything, weights = np.concatenate(parts), np.concatenate(counts)
    keys, first, inverse = np.unique(
        ngram_keys(torch.from_numpy(everything)).numpy(), return_index=True, return_inverse=True
    )
    total = np.bincount(inverse, weights=weights, minlength=len(keys)).astype(np.int64)
    return NgramCounts(everything[first], keys, total, seen.positions + len(windows))
