"""The entry on the key-value cache alone: what it keeps, what it drops, what it refuses."""

from __future__ import annotations

import copy
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.memory.tiny import some_ids
from tinyengram.memory.cache import MARGIN, EngramCacheLayer, ForgottenError, Window

STEPS = st.tuples(st.sampled_from(["append", "append", "append", "crop", "skip", "swap"]), st.integers(0, 40))


@settings(max_examples=300, deadline=None)
@given(
    keep=st.integers(0, 30),
    steps=st.lists(STEPS, max_size=30),
    rows=st.lists(st.integers(0, 1), min_size=1, max_size=3),
    surplus=st.lists(st.integers(0, 4), min_size=3, max_size=3),
)
def test_a_window_is_the_end_of_its_timeline(
    keep: int, steps: list[tuple[str, int]], rows: list[int], surplus: list[int]
) -> None:
    """Held against the whole timeline: what is kept, from where on, and nothing of it written over."""
    whole, first = torch.zeros(2, 0, 1), 0
    window, drawn = Window.empty(whole), torch.arange(1.0, 4000).view(1, -1, 1)
    for step, n in steps:
        if step == "swap":
            window, whole = window.changed(lambda tensor: tensor[[1, 0]]), whole[[1, 0]]
        elif step == "crop":
            whole = whole[:, : max(0, whole.shape[1] - n)]
            window.crop(whole.shape[1])
            window.crop(whole.shape[1] + 1)  # What is not there cannot be cropped.
            first = min(first, whole.shape[1])
        else:
            new = torch.cat([drawn[:, :n], -drawn[:, :n]]) if step == "append" else torch.zeros(2, n, 1)
            drawn, whole = drawn[:, n:], torch.cat([whole, new], dim=1)
            window.append(new, keep) if step == "append" else window.skip_to(whole.shape[1], keep)
            # Nothing is dropped where nothing was missing.
            first = first if step == "skip" and not n else max(first, whole.shape[1] - keep)
        assert (window.total, window.first) == (whole.shape[1], first)
        assert torch.equal(window.kept, whole[:, first:])
    surplus = [min(one, whole.shape[1] - first) for one in surplus[: len(rows)]]
    moved = window.shifted(torch.tensor(rows), torch.tensor(surplus))
    wanted = torch.stack(
        [
            torch.cat([torch.zeros(n, 1), whole[row, : len(whole[row]) - n]])
            for row, n in zip(rows, surplus, strict=True)
        ]
    )
    first += max(surplus) if first else 0
    assert (moved.total, moved.first) == (whole.shape[1], first)
    assert torch.equal(moved.kept, wanted[:, first:])


def test_a_window_of_single_steps_is_moved_without_loss() -> None:
    window, whole = Window.empty(torch.zeros(3, 0, 1)), torch.arange(600.0).view(3, 200, 1)
    for end in range(1, 201):
        window.append(whole[:, end - 1 : end], 5)
        assert torch.equal(window.kept, whole[:, max(0, end - 5) : end])


def test_rows_are_plain_until_places_are_empty_before_them() -> None:
    entry, chunk = EngramCacheLayer(), some_ids(2, 5)
    entry.extend(chunk, None, None, reach=6)
    assert entry.plain
    assert entry.texts.tolist() == [[1] * 5] * 2
    assert entry.positions.tolist() == [[0, 1, 2, 3, 4]] * 2
    entry.shift([0, 1], [2, 0])
    assert not entry.plain
    assert entry.texts.tolist() == [[0, 0, 1, 1, 1], [1] * 5]
    entry.reset()
    assert entry.plain


def test_older_crops_name_the_length_to_keep() -> None:
    entry = EngramCacheLayer()
    chunk = some_ids(1, 300)
    entry.extend(chunk, chunk, chunk, reach=6)
    for length, left in ((250, 250), (400, 250), (-10, 240)):
        entry.crop(length)
        assert entry.length == left
        assert torch.equal(entry.tokens, chunk[:, 300 - MARGIN - 6 : left])


def test_a_convolution_refuses_what_it_no_longer_knows() -> None:
    entry, key = EngramCacheLayer(), ("default", 1)
    for n in (250, 50):
        chunk, values = some_ids(1, n), torch.ones(1, n, 4)
        entry.extend(chunk, chunk, chunk, reach=20)
        entry.remember(key, values, 6)
    entry.crop(-MARGIN - 2)
    entry.extend(*[some_ids(1, 1)] * 3, reach=20)
    with pytest.raises(ForgottenError, match="lacks 2 of the places"):
        entry.recall(key, 6, torch.ones(1, 1, 4))


def test_rows_moved_to_end_together_keep_less() -> None:
    entry, chunk = EngramCacheLayer(), some_ids(1, 300)
    entry.extend(chunk, chunk, chunk, reach=6)
    entry.shift([0, 0], [0, 100])
    assert entry.length == 300
    assert torch.equal(entry.tokens, torch.cat([chunk[:, 300 - 34 :], chunk[:, 200 - 34 : 200]]))
    short = EngramCacheLayer()
    short.extend(chunk[:, :5], chunk[:, :5], chunk[:, :5], reach=6)
    short.shift([0, 0], [2, 0])
    wanted = torch.cat([torch.cat([chunk[:, :2] * 0, chunk[:, :3]], dim=1), chunk[:, :5]])
    assert torch.equal(short.tokens, wanted)
    assert torch.equal(short.texts, wanted)


@pytest.mark.parametrize("pause", [3, 1000])
def test_a_convolution_read_zeros_while_it_was_switched_off(pause: int) -> None:
    entry, key, one = EngramCacheLayer(), ("default", 1), torch.ones(1, 1, 1)

    def step(n: int, values: torch.Tensor | None) -> list[float]:
        entry.extend(*[some_ids(1, n)] * 3, reach=6)
        recalled = entry.recall(key, 6, torch.zeros(1, n, 1))
        if values is not None:
            entry.remember(key, values, 6)
        return [0.0] * 6 if recalled is None else recalled.flatten().tolist()

    step(10, torch.arange(10.0).view(1, 10, 1))
    step(pause, None)
    shifted = copy.deepcopy(entry)
    shifted.shift([0], [1])
    before = [7.0, 8.0, 9.0, 0, 0, 0] if pause == 3 else [0.0] * 6
    assert step(1, one) == before
    assert step(1, one) == [*before[1:], 1]
    entry = shifted
    assert step(1, one) == ([6.0, 7.0, 8.0, 9.0, 0, 0] if pause == 3 else before)


def test_an_entry_that_read_nothing_has_no_places() -> None:
    entry = EngramCacheLayer()
    assert entry.tokens.shape == entry.texts.shape == entry.positions.shape == (0, 0)


def test_padding_behind_is_kept_beyond_the_window() -> None:
    """Of the ids and of what convolutions read: it is taken off again when rows are moved to end together."""
    entry, key, chunk = EngramCacheLayer(), ("default", 1), some_ids(2, 400)
    entry.extend(chunk, chunk, chunk, reach=6, behind=40)
    entry.remember(key, torch.ones(2, 400, 4), 5)
    assert entry.tokens.shape[1] == MARGIN + 6 + 40
    assert entry.values[key].kept.shape[1] == MARGIN + 5 + 40
    entry.extend(chunk, chunk, chunk, reach=6)
    assert entry.tokens.shape[1] == MARGIN + 6


def test_the_first_place_alone_can_be_looked_back_at() -> None:
    entry, key, one = EngramCacheLayer(), ("default", 1), torch.ones(1, 1, 1)
    entry.extend(*[some_ids(1, 1)] * 3, reach=6)
    entry.remember(key, 3 * one, 6)
    entry.extend(*[some_ids(1, 1)] * 3, reach=6)
    assert entry.reaches(key, 6, 1)
    recalled = entry.recall(key, 6, one)
    assert recalled is not None
    assert recalled.flatten().tolist() == [0.0] * 5 + [3.0]


def test_it_passes_for_a_layer_of_the_first_ones_kind() -> None:
    for kind in (True, False):
        cache = SimpleNamespace(
            layers=[
                SimpleNamespace(is_sliding=kind, is_compileable=not kind),
                SimpleNamespace(is_sliding=not kind, is_compileable=kind),
            ]
        )
        entry = EngramCacheLayer().join(cache)
        assert (entry.is_sliding, entry.is_compileable) == (kind, not kind)
        assert cache.layers[-1] is entry
