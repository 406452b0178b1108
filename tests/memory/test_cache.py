"""The entry on the key-value cache alone: what it keeps, what it drops, what it refuses."""

from __future__ import annotations

import copy

import pytest
import torch

from tests.memory.tiny import some_ids
from tinyengram.memory.cache import MARGIN, EngramCacheLayer, ForgottenError


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
