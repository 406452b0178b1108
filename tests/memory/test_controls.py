"""Controls read rows from which the n-gram cannot be told, each of its own head, and "not known" stays not known."""

from __future__ import annotations

import pytest
import torch

from tests.memory.tiny import tiny_config
from tinyengram.memory import index
from tinyengram.memory.controls import ShuffledIndex, SingleRowIndex, make_index

HASHED = [
    {"max_ngram_size": 2, "engram_vocab_size": [7], "n_head_per_ngram": 1},
    {"max_ngram_size": 2, "engram_vocab_size": [7], "n_head_per_ngram": 2},
    {"max_ngram_size": 3, "engram_vocab_size": [7, 20], "n_head_per_ngram": 2},
]


@pytest.mark.parametrize("options", HASHED)
def test_of_hashed_heads(options: dict) -> None:
    single, shuffled = (make_index(tiny_config(rows=kind, **options), 97, 0) for kind in ("single", "shuffled"))
    assert isinstance(single, SingleRowIndex)
    assert isinstance(shuffled, ShuffledIndex)
    sizes = single.sizes[0].flatten()
    starts = (sizes.cumsum(0) - sizes).tolist()
    # Every row of each head: row r of a head stands at its start plus r.
    every = torch.stack([torch.arange(100) % size for size in sizes.tolist()], dim=-1) + torch.tensor(starts)
    assert single.other_rows(every[None], sizes)[0].unique(dim=0).tolist() == [starts]
    found, again = (shuffled.other_rows(every[None], sizes)[0] for _ in range(2))
    assert not torch.equal(found, again)
    for head, (start, size) in enumerate(zip(starts, sizes.tolist(), strict=True)):
        rows = found[:size, head]
        assert sorted(rows.tolist()) == list(range(start, start + size)), "a permutation within the head"
        assert torch.equal(found[:, head], rows[torch.arange(100) % size]), "one row stays one row"


@pytest.mark.parametrize("n_known", [1, 5])
def test_of_an_exact_memory(n_known: int) -> None:
    sizes = torch.tensor([n_known])
    rows = torch.randint(n_known + 1, (1, 50, 2))
    single, shuffled = (object.__new__(kind) for kind in (SingleRowIndex, ShuffledIndex))
    shuffled.__dict__["training"] = True
    assert single.other_rows(rows, sizes)[0].unique(dim=0).tolist() == [[0, 1 % n_known]]
    found = shuffled.other_rows(rows, sizes)
    assert torch.equal(found == n_known, rows == n_known)
    assert len(torch.stack([rows.flatten(), found.flatten()]).unique(dim=1).T) == len(rows.unique())


def test_canonical_ids_are_counted_from_the_map(monkeypatch: pytest.MonkeyPatch) -> None:
    mapped = torch.tensor([0, 1, 1, 2], dtype=torch.int32)
    monkeypatch.setattr(index, "_vocabulary_map", lambda *_: (mapped, "digest"))
    assert make_index(tiny_config(tokenizer_name_or_path="some"), 4, 0).compressed_vocab_size == 3
