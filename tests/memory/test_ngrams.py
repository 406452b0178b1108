"""Rows follow the paper's demo to the number; exact rows find the known n-grams and nothing else."""

from __future__ import annotations

import time

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sympy import isprime, nextprime
from torch.nn import functional as F

from tinyengram.memory.collect import collect_ngrams
from tinyengram.memory.ngrams import (
    KnownNgrams,
    exact_rows,
    hash_multipliers,
    hashed_rows,
    head_sizes,
    ngram_keys,
)

LAYERS, ORDERS, HEADS, SEED = [1, 4], [500, 100, 100], 16, 7


def rows_by_definition(ids: np.ndarray, layer: int, n_canonical: int, pad: int) -> np.ndarray:
    """The definition, written with plain integers and loops, independent of the code under test."""
    taken: set[int] = set()
    primes: dict[int, list[list[int]]] = {}
    for one in LAYERS:
        primes[one] = []
        for wanted in ORDERS:
            heads, prime = [], wanted - 1
            for _ in range(HEADS):
                prime = nextprime(prime)
                while prime in taken:
                    prime = nextprime(prime)
                taken.add(prime)
                heads.append(prime)
            primes[one].append(heads)
    half = max(1, ((2**63 - 1) // n_canonical) // 2)
    drawn = np.random.default_rng(SEED + 10007 * layer).integers(0, half, size=len(ORDERS) + 1, dtype=np.int64)
    multipliers = [2 * int(number) + 1 for number in drawn]
    table_start, start = [], 0
    for heads in primes[layer]:
        for prime in heads:
            table_start.append(start)
            start += prime
    result = []
    for t in range(len(ids)):
        back = [int(ids[t - k]) if t >= k else pad for k in range(len(ORDERS) + 1)]
        row = []
        for which in range(len(ORDERS)):
            mix = 0
            for k in range(which + 2):
                mix ^= back[k] * multipliers[k]
            row += [mix % prime for prime in primes[layer][which]]
        result.append([value + first for value, first in zip(row, table_start, strict=True)])
    return np.array(result)


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("n_canonical", [50, 38_000, 120_000])
def test_hashed_rows_equal_the_papers_definition(layer: int, n_canonical: int) -> None:
    ids = np.random.default_rng(0).integers(0, n_canonical, 60)
    pad, width = 2, len(ORDERS) + 1
    padded = np.concatenate([np.full(width - 1, pad), ids])
    window = np.stack([padded[width - 1 - k : len(padded) - k] for k in range(width)], axis=-1)
    rows = hashed_rows(
        torch.from_numpy(window)[None],
        hash_multipliers(layer, width, n_canonical, SEED),
        torch.tensor(head_sizes(LAYERS, ORDERS, HEADS)[layer]),
        10_000,
    )
    np.testing.assert_array_equal(rows[0].numpy(), rows_by_definition(ids, layer, n_canonical, pad))


@pytest.mark.parametrize("wanted", [[2, 2, 3], [500, 100, 100], [120_000, 121_000, 130_000]])
def test_rows_of_many_places_are_exact(wanted: list[int]) -> None:
    """Those of at least 256 places take another way on a CPU, in float64; here the hardest numbers for it."""
    sizes = torch.tensor(list(head_sizes(LAYERS, wanted, 4).values()))
    largest = int(sizes.max())
    assert largest < 2**17
    generator = torch.Generator().manual_seed(0)
    primes = sizes.flatten()[torch.randint(sizes.numel(), (4000,), generator=generator)]
    multiples = torch.randint(2**62, (4000,), generator=generator) // primes * primes
    numbers = torch.cat([multiples, multiples - 1, multiples + 1, 2**63 - 1 - multiples, torch.arange(4000)])
    # With these multipliers the hash of every order is the newest token itself.
    window = F.pad(numbers.view(5, -1, 1), (0, 3))
    multipliers = torch.ones(2, 4, dtype=torch.int64)
    found = hashed_rows(window, multipliers, sizes, largest)
    assert torch.equal(found, hashed_rows(window, multipliers, sizes, 2**62)), "as by division of integers"
    assert torch.equal(found[0], hashed_rows(window, multipliers[0], sizes[0], largest))


def test_head_sizes_are_distinct_primes_at_or_above_the_wanted_size() -> None:
    sizes = head_sizes([3, 0], [500, 100], 8)
    every = [prime for layer in (3, 0) for heads in sizes[layer] for prime in heads]
    assert len(set(every)) == len(every) == 2 * 2 * 8
    assert all(isprime(prime) for prime in every)
    assert sizes[3][0][0] == 503
    assert sizes[3][1][0] == 101
    assert sizes[0][0][0] == nextprime(max(sizes[3][0]))


def test_head_sizes_of_huge_tables_are_primes() -> None:
    assert all(isprime(prime) for prime in head_sizes([1], [10_000_000], 4)[1][0])


def test_head_sizes_from_nothing_are_the_first_primes() -> None:
    assert head_sizes([0], [1], 200)[0][0] == [number for number in range(1224) if isprime(number)]


# They look prime to the first 4, 8, 11 and 12 primes as witnesses (Sorenson and Webster, 2015).
@pytest.mark.parametrize("composite", [3215031751, 341550071728321, 3825123056546413051, 318665857834031151167461])
def test_numbers_that_only_look_prime_are_passed_over(composite: int) -> None:
    assert head_sizes([0], [composite], 1)[0][0] == [nextprime(composite)]


ids_lists = st.lists(st.lists(st.integers(0, 12), min_size=1, max_size=15), min_size=1, max_size=5)


def ngrams_by_definition(texts: list[list[int]], orders: tuple[int, ...], pad: int) -> dict[tuple[int, ...], int]:
    counts: dict[tuple[int, ...], int] = {}
    for text in texts:
        for t in range(len(text)):
            for order in orders:
                ngram = tuple(text[t - k] if t >= k else pad for k in range(order))
                counts[ngram] = counts.get(ngram, 0) + 1
    return counts


def as_tuples(known: KnownNgrams) -> set[tuple[int, ...]]:
    return {tuple(part for part in ngram if part >= 0) for ngram in known.ngrams.tolist()}


@settings(max_examples=200, deadline=None)
@given(ids_lists, st.sets(st.integers(1, 4), min_size=1), st.integers(1, 3))
def test_collected_ngrams_are_those_of_the_texts(texts: list[list[int]], orders: set[int], min_count: int) -> None:
    ordered = tuple(sorted(orders))
    counts = ngrams_by_definition(texts, ordered, pad=99)
    wanted = {ngram for ngram, count in counts.items() if count >= min_count}
    if not wanted:
        with pytest.raises(ValueError, match="min_count"):
            collect_ngrams(texts, orders=ordered, min_count=min_count, pad_token_id=99)
        return
    assert as_tuples(collect_ngrams(texts, orders=ordered, min_count=min_count, pad_token_id=99)) == wanted


@settings(max_examples=100, deadline=None)
@given(ids_lists, st.data())
def test_with_a_loss_mask_only_ngrams_that_predict_the_loss_are_known(
    texts: list[list[int]], data: st.DataObject
) -> None:
    masks = [data.draw(st.lists(st.booleans(), min_size=len(text), max_size=len(text))) for text in texts]
    wanted = {
        (text[t], text[t - 1] if t else 99)
        for text, mask in zip(texts, masks, strict=True)
        for t in range(len(text) - 1)
        if mask[t + 1]
    }
    if wanted:
        assert as_tuples(collect_ngrams(texts, masks, orders=(2,), pad_token_id=99)) == wanted


@settings(max_examples=100, deadline=None)
@given(ids_lists, ids_lists)
def test_exact_rows_find_known_ngrams_and_nothing_else(known_texts: list[list[int]], others: list[list[int]]) -> None:
    known = collect_ngrams(known_texts, orders=(2, 3), pad_token_id=99)
    place = {tuple(part for part in ngram if part >= 0): row for row, ngram in enumerate(known.ngrams.tolist())}
    for text in others + known_texts:
        padded = [99, 99, *text]
        window = torch.tensor([[padded[t + 2], padded[t + 1], padded[t]] for t in range(len(text))])[None]
        rows = exact_rows(window, known.ngrams, known.keys, (2, 3))
        for t in range(len(text)):
            for column, order in enumerate((2, 3)):
                ngram = tuple(window[0, t, :order].tolist())
                assert rows[0, t, column] == place.get(ngram, len(known))


def test_background_keeps_what_is_relatively_more_frequent() -> None:
    background = [[1, 2, 3, 4] * 10]
    known = collect_ngrams([[1, 2, 7, 8]], orders=(2,), background=background, pad_token_id=0)
    assert (2, 1) not in as_tuples(known)
    assert {(7, 2), (8, 7)} <= as_tuples(known)


def test_max_ngrams_keeps_the_most_frequent() -> None:
    known = collect_ngrams([[5, 6, 5, 6, 5, 6, 7]], orders=(2,), max_ngrams=1, pad_token_id=0)
    assert as_tuples(known) == {(6, 5)}


def test_a_mask_of_another_length_is_refused() -> None:
    with pytest.raises(ValueError, match=r"4 tokens has a loss mask of 2"):
        collect_ngrams([[1, 2, 3, 4]], [[True, False]])


def test_counts_of_a_long_text_are_merged_rightly() -> None:
    text = np.random.default_rng(0).integers(1, 40, 400_000)
    parts = np.split(text, 100)
    known = collect_ngrams(parts, orders=(2,), min_count=260, pad_token_id=0)
    pairs, counts = np.unique(
        np.concatenate([np.stack([part, np.concatenate([[0], part[:-1]])], axis=1) for part in parts]),
        axis=0,
        return_counts=True,
    )
    assert 0 < len(known) < len(pairs)
    assert as_tuples(known) == {tuple(pair) for pair in pairs[counts >= 260].tolist()}


def test_collecting_reads_two_million_tokens_a_second() -> None:
    texts = list(np.random.default_rng(0).integers(0, 2000, (400, 1000)))
    masks = [np.arange(1000) > 900] * 400
    begun = time.perf_counter()
    collect_ngrams(texts, masks, orders=(2, 3, 4))
    assert 400_000 / (time.perf_counter() - begun) > 2e6 / 4, "far below the promised speed, even on a busy machine"


def test_keys_are_those_by_which_saved_adapters_find_their_ngrams() -> None:
    assert ngram_keys(torch.tensor([[6, 5, -1], [7, 6, 5]])).tolist() == [6018027440424182925, 2175506376053267040]
