"""What is counted and kept of a corpus, held against counting with plain dictionaries."""

from __future__ import annotations

from collections import Counter
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tinyengram.memory.collect import NgramCounts, collect_ngrams, count_ngrams
from tinyengram.memory.ngrams import map_digest, ngram_keys

# Raw ids 0 … 5 onto canonical ids.
MAP = torch.tensor([2, 0, 1, 1, 0, 3])
PAD = 5

texts_of_few_tokens = st.lists(st.lists(st.integers(0, 5), max_size=8), max_size=6)


def counted(
    texts: list[list[int]], masks: list[list[bool]] | None, orders: tuple[int, ...], mapped: bool
) -> tuple[Counter, int]:
    """How often each n-gram, newest id first, ends where a token of the loss comes next; and the number of places."""
    found, places = Counter(), 0
    for text, mask in zip(texts, masks or [None] * len(texts), strict=True):
        padded = [PAD] * 4 + text
        ids = [int(MAP[token]) for token in padded] if mapped else padded
        for at in range(len(text)):
            if mask is None or (at + 1 < len(text) and mask[at + 1]):
                places += 1
                found.update(tuple(ids[at + 4 - back] for back in range(order)) for order in orders)
    return found, places


def as_counter(counts: NgramCounts) -> Counter:
    ngrams = [tuple(part for part in ngram if part >= 0) for ngram in counts.ngrams.tolist()]
    assert len(set(ngrams)) == len(ngrams)
    return Counter(dict(zip(ngrams, counts.counts.tolist(), strict=True)))


@settings(max_examples=200, deadline=None)
@given(texts_of_few_tokens, st.sets(st.integers(1, 4), min_size=1), st.booleans(), st.data())
def test_counts_are_those_of_the_texts(texts: list, orders: set[int], mapped: bool, data: st.DataObject) -> None:
    masks = None
    if data.draw(st.booleans()):
        masks = [data.draw(st.lists(st.booleans(), min_size=len(text), max_size=len(text))) for text in texts]
    options = {"orders": tuple(orders), "compression": MAP if mapped else None, "pad_token_id": PAD}
    found = count_ngrams(texts, masks, **options)
    wanted, places = counted(texts, masks, tuple(orders), mapped)
    assert as_counter(found) == wanted
    assert found.positions == places
    assert (np.diff(found.keys) > 0).all()
    assert (found.keys == ngram_keys(torch.from_numpy(found.ngrams)).numpy()).all()
    for order in orders:
        assert found.is_of(order).sum() == sum(len(ngram) == order for ngram in wanted)
    asked = np.concatenate([found.keys, found.keys + 1])
    of_keys = dict(zip(found.keys.tolist(), found.counts.tolist(), strict=True))
    assert found.count_of(asked).tolist() == [of_keys.get(key, 0) for key in asked.tolist()]


@settings(max_examples=200, deadline=None)
@given(texts_of_few_tokens, texts_of_few_tokens, st.integers(1, 3), st.none() | st.integers(1, 4))
def test_kept_are_the_most_frequent_that_are_rarer_elsewhere(
    texts: list, background: list, min_count: int, at_most: int | None
) -> None:
    here, places = counted(texts, None, (1, 2), mapped=False)
    there, there_places = counted(background, None, (1, 2), mapped=False)
    wanted = [
        ngram
        for ngram in as_counter(count_ngrams(texts, orders=(1, 2), pad_token_id=PAD))  # In the order of keys.
        if here[ngram] >= min_count and Fraction(here[ngram], places) > Fraction(there[ngram], max(1, there_places))
    ]
    wanted = sorted(wanted, key=lambda ngram: -here[ngram])[:at_most]
    options = {"orders": (1, 2), "pad_token_id": PAD, "min_count": min_count, "max_ngrams": at_most}
    if not wanted:
        with pytest.raises(ValueError, match=rf"No n-gram is left of {len(here)} seen; lower min_count={min_count}"):
            collect_ngrams(texts, background=background, **options)
        return
    known = collect_ngrams(texts, background=background, **options)
    assert {tuple(part for part in ngram if part >= 0) for ngram in known.ngrams.tolist()} == set(wanted)
    assert known.orders == tuple(sorted({len(ngram) for ngram in wanted}))
    assert known.vocabulary is None


def test_by_themselves_orders_two_to_four_are_kept_from_their_first_time_on() -> None:
    known = collect_ngrams([[1, 2, 3, 4]])
    assert known.orders == (2, 3, 4)
    assert [0, -1, -1, -1] not in known.ngrams.tolist()
    assert [1, 0, -1, -1] in known.ngrams.tolist()
    assert count_ngrams([[1, 2, 3, 4]]).is_of(1).sum() == 0
    assert len(count_ngrams([[1, 2, 3, 4]]).counts) == len(known) == 12


def test_the_map_of_the_ids_is_noted() -> None:
    assert collect_ngrams([[1, 2, 3]], compression=MAP).vocabulary == map_digest(MAP)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"min_count": 0}, "min_count=0 and max_ngrams=None must be at least 1"),
        ({"max_ngrams": 0}, "max_ngrams=0 must be at least 1"),
        ({"orders": ()}, "at least one n-gram order from 1 on"),
        ({"orders": (0, 2)}, "at least one n-gram order from 1 on"),
        ({"pad_token_id": -1}, "pad_token_id=-1 is no token"),
        ({"loss_mask": [[0, 1, 2]]}, "of labels give"),
    ],
)
def test_what_cannot_be_counted_is_refused(options: dict, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        collect_ngrams([[1, 2, 3]], **options)


def test_a_mask_may_be_of_ones_and_zeros() -> None:
    assert collect_ngrams([[1, 2, 3]], [[0, 0, 1]], orders=(1,)).ngrams.tolist() == [[2]]


def test_two_to_four_tokens_are_counted_where_nothing_is_said() -> None:
    assert collect_ngrams([[1, 2, 3, 4, 5, 0]]).orders == (2, 3, 4)
    assert as_counter(count_ngrams([[1, 2, 3, 4, 5, 0]]))[4, 3, 2, 1] == 1


def test_a_background_of_one_place_counts_whole() -> None:
    """The bigram (pad, 1) is at its only place, so its share there is one, which nothing here exceeds."""
    options = {"orders": (2,), "pad_token_id": 0}
    with pytest.raises(ValueError, match="No n-gram is left"):
        collect_ngrams([[1]], background=[[1]], **options)
    assert len(collect_ngrams([[1]], background=[[2]], **options)) == 1
