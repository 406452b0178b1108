"""What a memory takes before it is made: rows, bytes, and how many n-grams have to share a row."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from tinyengram.memory.config import EngramConfig
from tinyengram.memory.ngrams import head_sizes

_FLOAT = 4  # bytes


@dataclass(frozen=True)
class MemorySize:
    """Sizes of all blocks that read memory together, in float32.

    Attributes:
        rows: Of all tables.
        tables: Bytes of these.
        projections: Bytes of all else that is trained: projections, norms, convolution.
        optimizer: Bytes of AdamW's two moments, of tables (by :func:`row_sparse_adamw`) for the rows that are touched.
    """

    rows: int
    tables: int
    projections: int
    optimizer: int


def exact_size(config: EngramConfig, hidden_size: int) -> MemorySize:
    """What an exact memory takes once every known n-gram was met.

    Args:
        config: Its options, with ``ngrams``.
        hidden_size: Of the base.

    Raises:
        ValueError: The config holds no n-grams.
    """
    if config.ngrams is None:
        raise ValueError("The config holds no n-grams to count; give ngrams=collect_ngrams(...).")
    n_ngrams, n_layers = len(config.ngrams), len(config.layer_ids)
    rows = (n_ngrams + 1) * n_layers  # One row of each block stands for "not known", and is never touched.
    return _size(config, rows, n_ngrams * n_layers, len(config.ngrams.orders), hidden_size)


def hashed_size(config: EngramConfig, n_ngrams: Sequence[int], hidden_size: int) -> MemorySize:
    """What a hashed memory takes, with the rows that distinct n-grams can be expected to touch.

    Args:
        config: Its options.
        n_ngrams: Distinct n-grams of each order 2 … N.
        hidden_size: Of the base.
    """
    primes = head_sizes(config.layer_ids, config.engram_vocab_size, config.n_head_per_ngram)
    rows = sum(sum(heads) for layer in primes.values() for heads in layer)
    touched = sum(
        rows_of_head * (1 - (1 - 1 / rows_of_head) ** distinct)
        for layer in primes.values()
        for heads, distinct in zip(layer, n_ngrams, strict=True)
        for rows_of_head in heads
    )
    return _size(config, rows, round(touched), len(primes[config.layer_ids[0]]), hidden_size)


def expected_sharing(n_ngrams: int, rows: int) -> float:
    """Expected share of distinct n-grams that find another one on their row, where a hash spreads them evenly."""
    return 1 - (1 - 1 / rows) ** max(0, n_ngrams - 1)


def sharing_of_hashed(config: EngramConfig, n_ngrams: Sequence[int]) -> list[tuple[float, float]]:
    """How many n-grams can be expected to share rows in the block where it is worst, the first to claim its primes.

    Args:
        config: Options of a hashed memory.
        n_ngrams: Distinct n-grams of each order 2 … N.

    Returns:
        For each order the share of n-grams that share their row in a head, on average over heads, and the share of
        those that share their rows in every head, so that nothing is theirs alone.
    """
    primes = head_sizes(config.layer_ids, config.engram_vocab_size, config.n_head_per_ngram)
    found = []
    for heads, distinct in zip(primes[config.layer_ids[0]], n_ngrams, strict=True):
        shares = [expected_sharing(distinct, rows) for rows in heads]
        found.append((sum(shares) / len(shares), math.prod(shares)))
    return found


def _size(config: EngramConfig, rows: int, touched: int, n_orders: int, hidden_size: int) -> MemorySize:
    width = n_orders * config.n_embed_per_ngram
    vectors = 2 + (1 + config.kernel_size if config.kernel_size else 0)  # two norms; the convolution's, and its taps
    projections = len(config.layer_ids) * hidden_size * (2 * width + vectors)
    return MemorySize(
        rows=rows,
        tables=_FLOAT * rows * config.row_width,
        projections=_FLOAT * projections,
        optimizer=2 * _FLOAT * (touched * config.row_width + projections),
    )
