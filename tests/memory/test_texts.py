"""Tokens belong to one text when their caller says so, whichever way it is said and however it is cut into chunks."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tinyengram.memory.cache import EngramCacheLayer
from tinyengram.memory.texts import behind_zeros, mask_of, padding_behind, read_texts


def named(how: str, texts: torch.Tensor, begin: int, end: int) -> tuple[torch.Tensor | None, torch.Tensor | None]:
    """(position ids, mask) by which a caller names the texts (0 is padding) of the chunk from ``begin`` to ``end``."""
    if how in ("mask", "positions"):
        positions = torch.ones_like(texts)
        for row, numbers in enumerate(texts.tolist()):
            for at, number in enumerate(numbers):
                began = numbers.index(number)
                positions[row, at] = at - began if number else 1
        return positions[:, begin:end] if how == "positions" else None, (texts[:, :end] > 0).long()
    allowed = (texts.unsqueeze(2) == texts.unsqueeze(1)) & (texts.unsqueeze(2) > 0)
    allowed = allowed.tril()[:, None, begin:end, :end]
    if how == "sliding":
        allowed = allowed[..., max(0, begin - 1) :]
    return None, torch.zeros(allowed.shape).masked_fill(~allowed, -torch.inf) if how == "scores" else allowed


@settings(max_examples=300, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 4), min_size=1, max_size=4),
    padding=st.integers(0, 3),
    past=st.integers(0, 12),
    how=st.sampled_from(["mask", "positions", "blocks", "scores", "sliding"]),
)
def test_texts_are_told_apart_as_the_caller_names_them(lengths: list[int], padding: int, past: int, how: str) -> None:
    if how == "mask":  # It only knows padding.
        lengths = [sum(lengths)]
    packed = [0] * padding + [number for number, length in enumerate(lengths, start=1) for _ in range(length)]
    wanted = torch.tensor([packed, [1] * len(packed)])
    past = min(past, len(packed) - 1)
    state, parts = EngramCacheLayer(), []
    for begin, end in ((0, past), (past, len(packed))):
        if begin < end:
            ids = torch.zeros(2, end - begin, dtype=torch.long)
            texts, places = read_texts(ids, *named(how, wanted, begin, end), begin, state if begin else None)
            state.extend(ids, texts, places, reach=6)
            parts.append(texts)
    found = torch.cat(parts, dim=1)
    assert torch.equal(found > 0, wanted > 0)
    assert torch.equal(found.unsqueeze(1) == found.unsqueeze(2), wanted.unsqueeze(1) == wanted.unsqueeze(2))


def test_the_first_plane_of_positions_counts_along_a_text() -> None:
    ids, place = torch.zeros(2, 4, dtype=torch.long), torch.tensor([0, 1, 0, 1])
    planes = torch.stack([place, torch.zeros(4, dtype=torch.long)])[:, None].expand(2, 2, 4)
    texts, positions = read_texts(ids, planes, None, 0, None)
    assert texts.tolist() == [[1, 1, 2, 2]] * 2
    assert positions.tolist() == [[0, 1, 0, 1]] * 2


def test_a_text_goes_on_behind_its_past_and_another_has_a_number_of_its_own() -> None:
    state, ids = EngramCacheLayer(), torch.zeros(1, 3, dtype=torch.long)
    state.extend(ids, torch.tensor([[4, 4, 9]]), torch.tensor([[0, 1, 0]]), reach=6)
    assert read_texts(ids, torch.tensor([[1, 2, 0]]), None, 3, state)[0].tolist() == [[9, 9, 10]]
    assert read_texts(ids, torch.tensor([[0, 1, 2]]), None, 3, state)[0].tolist() == [[10, 10, 10]]
    assert read_texts(ids, None, None, 3, state)[1].tolist() == [[1, 2, 3]]


@pytest.mark.parametrize(
    ("texts", "places"),
    [([[1, 1, 1], [1, 0, 0]], 2), ([[0, 0, 1], [0, 1, 1]], 0), ([[1, 1, 0]], 1), ([[0, 0, 0], [1, 1, 1]], 3)],
)
def test_padding_behind_the_shortest_row(texts: list[list[int]], places: int) -> None:
    assert padding_behind(torch.tensor(texts)) == places


def test_zeros_stand_before_what_is_too_short() -> None:
    assert behind_zeros(torch.tensor([[5, 6]]), 4).tolist() == [[0, 0, 5, 6]]
    assert behind_zeros(torch.tensor([[5, 6]]), 2).tolist() == [[5, 6]]
    assert behind_zeros(torch.tensor([[5, 6]]), 1).tolist() == [[5, 6]]


def test_of_masks_by_kind_of_attention_the_full_one_counts() -> None:
    full, window = torch.ones(1, 2), torch.zeros(1, 2)
    wanted: list[tuple[Any, Any]] = [
        (full, full),
        ({"sliding_attention": window, "full_attention": full}, full),
        ({"sliding_attention": window}, window),
        ({"full_attention": None}, None),
        ({}, None),
        (None, None),
        (object(), None),
    ]
    for given_mask, mask in wanted:
        assert mask_of(given_mask) is mask
