"""From token ids to table rows: hashed (the paper's) and exact (known n-grams only). Tensors only, no modules.

Both work on a *window*: an int64 tensor of shape ``(batch, length, N)`` whose last axis holds the token at a position
and the N - 1 before it, newest first, with the pad id where a text has not begun yet.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import count

import numpy as np
import torch

# Distance between the seeds of two layers' multipliers (the paper's demo).
_LAYER_SEED_STRIDE = 10007
# Below this size of a head remainders are exact in float64.
_LARGEST_IN_FLOAT64 = 2**17
# Positions from which the many small steps of float64 are faster than one of int64.
_MANY_POSITIONS = 256
# Multiplier of the keys by which known n-grams are found.
_KEY_MULTIPLIER = -7046029254386353131


def hash_multipliers(layer_id: int, max_ngram_size: int, compressed_vocab_size: int, seed: int) -> torch.Tensor:
    """Odd multipliers of a layer's n-gram hash, small enough that ``id * multiplier`` never overflows int64.

    Args:
        layer_id: Block that reads the memory; each has multipliers of its own.
        max_ngram_size: N.
        compressed_vocab_size: Number of canonical token ids.
        seed: The memory's seed.

    Returns:
        int64 tensor of shape ``(max_ngram_size,)``, the first for the newest token.
    """
    half = max(1, (np.iinfo(np.int64).max // compressed_vocab_size) // 2)
    generator = np.random.default_rng(seed + _LAYER_SEED_STRIDE * layer_id)
    drawn = generator.integers(0, half, size=max_ngram_size, dtype=np.int64)
    return torch.from_numpy(drawn * 2 + 1)


def head_sizes(
    layer_ids: Sequence[int], engram_vocab_size: Sequence[int], n_head_per_ngram: int
) -> dict[int, list[list[int]]]:
    """Rows of every head: the next primes at or above the wanted size, none used twice in the whole memory.

    Args:
        layer_ids: Blocks in the order in which they claim primes.
        engram_vocab_size: Wanted rows for each order 2 … N.
        n_head_per_ngram: Heads per order.

    Returns:
        For each layer id a list per order of ``n_head_per_ngram`` primes.
    """
    taken: set[int] = set()

    def next_unused_prime(least: int) -> int:
        prime = next(number for number in count(max(2, least)) if number not in taken and _is_prime(number))
        taken.add(prime)
        return prime

    sizes: dict[int, list[list[int]]] = {}
    for layer_id in layer_ids:
        sizes[layer_id] = []
        for wanted in engram_vocab_size:
            heads, least = [], wanted
            for _ in range(n_head_per_ngram):
                heads.append(next_unused_prime(least))
                least = heads[-1] + 1
            sizes[layer_id].append(heads)
    return sizes


def _is_prime(number: int) -> bool:
    """Deterministic Miller-Rabin for all numbers below 3.3e24 (Sorenson and Webster, 2015)."""
    witnesses = (2, 3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37, 41)
    if number < 2:
        return False
    for prime in witnesses:
        if number % prime == 0:
            return number == prime
    odd, twos = number - 1, 0
    while odd % 2 == 0:
        odd, twos = odd // 2, twos + 1
    for witness in witnesses:
        power = pow(witness, odd, number)
        if power in (1, number - 1):
            continue
        for _ in range(twos - 1):
            power = power * power % number
            if power == number - 1:
                break
        else:
            return False
    return True


def hashed_rows(window: torch.Tensor, multipliers: torch.Tensor, sizes: torch.Tensor, largest: int) -> torch.Tensor:
    """Table rows of the n-grams that end at each position, by multiplicative-xor hashing; of several layers at once.

    For order n: ``mix = x_t * m_0 ^ x_{t-1} * m_1 ^ … ^ x_{t-n+1} * m_{n-1}``; head k reads row ``mix mod p_k``
    (arXiv 2601.07372, equation 3 and its demo). Heads follow each other in one table.

    Args:
        window: int64 ``(batch, length, N)``, compressed ids, newest first.
        multipliers: int64 ``(…, N)``, an entry of the leading axes for each layer.
        sizes: int64 ``(…, N - 1, heads)``, rows of each head.
        largest: The largest of ``sizes``, known without looking at the tensor.

    Returns:
        int64 ``(…, batch, length, (N - 1) * heads)``, rows of each layer's table, orders 2 … N one after the other.
    """
    newest, *older = (window * multipliers[..., None, None, :]).unbind(-1)
    mixes = [newest]
    for product in older:
        mixes.append(mixes[-1] ^ product)
    mix, flat = torch.stack(mixes[1:], dim=-1), sizes.flatten(-2)
    starts = flat.cumsum(-1) - flat
    many = window.device.type == "cpu" and window.shape[0] * window.shape[1] >= _MANY_POSITIONS
    if many and largest < _LARGEST_IN_FLOAT64:
        return _remainders(mix, sizes, starts)
    return (mix.unsqueeze(-1) % sizes[..., None, None, :, :]).flatten(-2).add_(starts[..., None, None, :])


def _remainders(numbers: torch.Tensor, sizes: torch.Tensor, starts: torch.Tensor) -> torch.Tensor:
    """``numbers % sizes + starts`` for int64 numbers, exactly, by float64: a CPU divides int64 one by one.

    With ``numbers = high 2^31 + low``, ``high (2^31 mod size) + low`` has the same remainder and, for sizes below 2^17,
    less than 50 bits: a matrix product, each sum in which is whole and exact. A second one gives the quotients; they
    are off by less than a quarter of 1 / size, and the half by which they are raised keeps them clear of whole numbers.

    Args:
        numbers: ``(…, batch, length, orders)``.
        sizes: ``(…, orders, heads)``.
        starts: ``(…, orders * heads)``.

    Returns:
        int64 ``(…, batch, length, orders * heads)``.
    """
    n_orders, n_heads = sizes.shape[-2:]
    parts = torch.cat([numbers >> 31, numbers & (2**31 - 1)], dim=-1).double()
    parts = parts.view(-1, numbers.shape[-3] * numbers.shape[-2], 2 * n_orders)
    divisor, starts = (one.double().view(-1, 1, n_orders * n_heads) for one in (sizes, starts))
    own = torch.eye(n_orders, dtype=torch.float64).repeat_interleave(n_heads, dim=1).expand(len(divisor), -1, -1)
    weights = torch.cat([own * (2**31 % divisor), own], dim=1)
    quotient = torch.baddbmm(0.5 / divisor, parts, weights / divisor).floor_()
    dividend = torch.baddbmm(starts, parts, weights)
    return dividend.addcmul_(quotient, divisor, value=-1).long().view(*numbers.shape[:-1], -1)


@dataclass(frozen=True)
class KnownNgrams:
    """The n-grams that an exact memory knows, as sorted keys with the ids themselves to rule out false matches.

    Attributes:
        ngrams: int64 ``(n_known, width)``, canonical ids newest first, -1 beyond an n-gram's order; sorted by key.
        keys: int64 ``(n_known,)``, strictly increasing.
        orders: Orders present, ascending.
        vocabulary: Digest of the vocabulary map that they were collected with (:func:`map_digest`); None for raw ids.
    """

    ngrams: torch.Tensor
    keys: torch.Tensor
    orders: tuple[int, ...]
    vocabulary: str | None = None

    def __len__(self) -> int:
        return len(self.keys)

    @classmethod
    def of(cls, ngrams: torch.Tensor, vocabulary: str | None = None) -> KnownNgrams:
        """Index n-grams given as int64 ``(n_known, width)``, newest id first, padded with -1.

        Args:
            ngrams: The n-grams.
            vocabulary: Digest of the map from which their ids come, None for raw ids.

        Raises:
            ValueError: Two different n-grams have one 64-bit key (expected once in about 10^19 / n_known^2 sets).
        """
        keys = ngram_keys(ngrams)
        order = torch.argsort(keys)
        ngrams, keys = ngrams[order], keys[order]
        if len(keys) > 1 and bool((keys[1:] == keys[:-1]).any()):
            raise ValueError("Two known n-grams share a 64-bit key or are the same; drop one of them.")
        lengths = (ngrams >= 0).sum(-1).unique().tolist()
        return cls(ngrams=ngrams, keys=keys, orders=tuple(lengths), vocabulary=vocabulary)


def map_digest(compression: torch.Tensor) -> str:
    """sha256, in hex, of an integer ``(vocab,)`` map of token ids onto canonical ids."""
    return hashlib.sha256(compression.cpu().to(torch.int64).contiguous().numpy().tobytes()).hexdigest()


def ngram_keys(ngrams: torch.Tensor) -> torch.Tensor:
    """64-bit keys of int64 ``(…, width)`` n-grams padded with -1: a polynomial with wrapping arithmetic, then mixed.

    A key only finds the candidate; the ids are compared afterwards, so its quality concerns speed alone.
    """
    key = torch.zeros(ngrams.shape[:-1], dtype=torch.int64, device=ngrams.device)
    for distance in range(ngrams.shape[-1]):
        part = ngrams[..., distance]
        key = torch.where(part < 0, key, key * _KEY_MULTIPLIER + part + 1)
        key = _mixed(key)
    return key


def exact_rows(window: torch.Tensor, known: torch.Tensor, keys: torch.Tensor, orders: Sequence[int]) -> torch.Tensor:
    """Table rows of the known n-grams that end at each position.

    Args:
        window: int64 ``(batch, length, N)``, compressed ids, newest first.
        known: int64 ``(n_known, width)`` and
        keys: int64 ``(n_known,)``, both as in :class:`KnownNgrams`.
        orders: The orders to look up.

    Returns:
        int64 ``(batch, length, len(orders))``; ``n_known`` where the n-gram is not known.
    """
    width = known.shape[-1]
    window = window[..., :width]
    # As `ngram_keys`, for all orders at once: keys of shorter n-grams, and last that of all tokens so far.
    first, *older = (window + 1).unsqueeze(-2).unbind(-1)
    found = _mixed(first)
    for order, token in enumerate(older, start=1):
        key = torch.add(token, found[..., -1:], alpha=_KEY_MULTIPLIER)
        shorter = found if order in orders else found[..., :-1]
        found = _mixed(torch.cat([shorter, key], dim=-1) if shorter.shape[-1] else key)
    found = found if width in orders else found[..., :-1]
    # The last key that is not beyond; -1, the last of all, where each is. Keys are not sliced: torch before 2.13, when
    # it compiles for a GPU, searches what a slice was cut from (pytorch/pytorch#182343).
    candidate = torch.searchsorted(keys, found.contiguous(), right=True) - 1
    beyond = torch.tensor([[at >= order for at in range(width)] for order in orders], device=window.device)
    same = (known[candidate] == window.unsqueeze(-2).masked_fill(beyond, -1)).all(-1)
    return torch.where(same, candidate, len(keys))


def _mixed(key: torch.Tensor) -> torch.Tensor:
    return key ^ (key >> 29)
