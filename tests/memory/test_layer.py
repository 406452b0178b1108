"""What a memory computes is what the paper's equations say, written out position by position."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.nn import functional as F

from tests.memory.tiny import tiny_config
from tinyengram import KnownNgrams
from tinyengram.memory.cache import EngramCacheLayer
from tinyengram.memory.layer import EngramMemory
from tinyengram.memory.reading import Reading
from tinyengram.memory.texts import behind_zeros

WIDTH, LENGTH, N_ROWS = 12, 26, 9
KNOWN = KnownNgrams.of(torch.tensor([[1, 2, -1], [1, 2, 3]]))


def a_memory(kind: torch.dtype, **options: Any) -> EngramMemory:
    """Of random weights; its norms' are not one, and some of its rows are as good as silent."""
    torch.manual_seed(0)
    more = {"ngrams": KNOWN} if options.get("memory") == "exact" else {}
    memory = EngramMemory(tiny_config(n_embed_per_ngram=4, **options, **more), WIDTH, N_ROWS).to(kind)
    with torch.no_grad():
        for name, parameter in memory.named_parameters():
            parameter.copy_(torch.randn(parameter.shape) + ("norm" in name))
        if memory.unknown_row is not None:
            memory.tables.weight[memory.unknown_row] = 0
    return memory


def normed(vector: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    return vector / (vector.square().mean() + 1e-6).sqrt() * weight


def by_definition(memory: EngramMemory, hidden: torch.Tensor, rows: torch.Tensor, texts: torch.Tensor) -> torch.Tensor:
    """Section 2.3 and 2.4 of the paper, for texts numbered from 1, 0 being padding."""
    out = torch.zeros_like(hidden)
    for row in range(len(hidden)):
        values = []
        for at in range(hidden.shape[1]):
            found = torch.cat([memory.tables.weight[one] for one in rows[row, at]])
            key = normed(memory.key_proj.weight @ found, memory.key_norm.weight)
            logit = key @ normed(hidden[row, at], memory.query_norm.weight) / WIDTH**0.5
            if memory.gate == "hard":
                gate = (logit / 6 + 0.5).clamp(0, 1)
            else:
                gate = torch.sigmoid(logit.sign() * logit.abs().clamp(min=1e-6).sqrt())
            values.append(gate * (memory.value_proj.weight @ found))
        for at, value in enumerate(values):
            out[row, at] = value
            if memory.kernel_size:
                total = torch.zeros_like(value)
                for tap, weight in enumerate(memory.conv_weight):
                    back = at - tap * memory.dilation
                    if back >= 0 and texts[row, back] == texts[row, at] > 0:
                        total += weight * normed(values[back], memory.conv_norm.weight)
                out[row, at] += F.silu(total)
    return out


def in_chunks(
    memory: EngramMemory, hidden: torch.Tensor, rows: torch.Tensor, texts: torch.Tensor | None, sizes: list[int]
) -> torch.Tensor:
    state, parts, end = EngramCacheLayer(), [], 0
    for size in sizes:
        begin, end = end, end + size
        tokens = torch.zeros(2, size, dtype=torch.long)
        numbers = None if texts is None else texts[:, begin:end]
        state.extend(tokens, numbers, numbers, reach=memory.reach)
        behind = (
            None if texts is None else behind_zeros(texts[:, max(0, begin - memory.reach) : end], size + memory.reach)
        )
        reading = Reading(tokens, behind, size, lambda *_: torch.empty(0), state)
        one = memory(hidden[:, begin:end], rows[:, begin:end], reading, ("default", 1))
        parts.append(torch.zeros_like(hidden[:, begin:end]) if one is None else one)
    return torch.cat(parts, dim=1)


@pytest.mark.parametrize("sizes", [[LENGTH], [9, 1, 1, 1, 14], [1] * LENGTH], ids=["whole", "chunks", "steps"])
@pytest.mark.parametrize("packed", [False, True], ids=["one text", "packed"])
@pytest.mark.parametrize("known", [1.0, 0.3, 0.0])
@pytest.mark.parametrize(
    "options",
    [{}, {"gate": "hard"}, {"kernel_size": 0}, {"kernel_size": 1}, {"kernel_size": 3, "gate": "hard"}],
    ids=lambda options: ", ".join(f"{name} {value}" for name, value in options.items()) or "plain",
)
def test_it_is_the_papers_equations(options: dict, known: float, packed: bool, sizes: list[int]) -> None:
    kinds = [{"memory": "exact"}] + ([{}] if known == 1 else [])
    for kind in kinds:
        for precision, tolerance in ((torch.float64, 1e-9), (torch.float32, 1e-4)):
            memory = a_memory(precision, **kind, **options)
            hidden = torch.randn(2, LENGTH, WIDTH, dtype=precision)
            hidden[:, 4] *= 1e-8  # So that one gate is where the slope of its root is cut.
            # Of an exact memory a place knows n-grams of all orders, of the shorter alone, or none.
            rows = torch.randint(N_ROWS - 1, (2, LENGTH, 2 if kind else 4))
            if kind:
                rows[torch.rand(2, LENGTH) >= known] = N_ROWS - 1
                rows[..., 1:][torch.rand(2, LENGTH, 1) > 0.5] = N_ROWS - 1
            texts = torch.ones(2, LENGTH, dtype=torch.long)
            if packed:
                texts[0, 5:12], texts[0, 12:], texts[1, :3] = 2, 3, 0
            with torch.no_grad():
                found = in_chunks(memory, hidden, rows, texts if packed else None, sizes)
                wanted = by_definition(memory, hidden, rows, texts)
            torch.testing.assert_close(found, wanted, atol=tolerance, rtol=tolerance)
            trained = in_chunks(memory, hidden, rows, texts if packed else None, sizes)
            torch.testing.assert_close(trained.detach(), wanted, atol=tolerance, rtol=tolerance)


def test_a_memory_to_be_loaded_is_as_wide_as_the_orders_in_its_file() -> None:
    config = tiny_config(memory="exact", fingerprint={"ngram_orders": [3]}, max_ngram_size=4, n_embed_per_ngram=16)
    assert EngramMemory(config, WIDTH, N_ROWS).key_proj.in_features == 16


@pytest.mark.parametrize("init", ["paper", "zero_value"])
@pytest.mark.parametrize("memory", ["hashed", "exact"])
def test_how_it_begins(memory: str, init: str) -> None:
    more = {"ngrams": KNOWN} if memory == "exact" else {}
    begun = EngramMemory(tiny_config(memory=memory, init=init, n_embed_per_ngram=4, **more), WIDTH, N_ROWS)
    per_place = begun.key_proj.in_features // begun.tables.weight.shape[1]
    rows = torch.arange(N_ROWS)[None, :, None].expand(1, -1, per_place)
    spoken = begun.read(torch.randn(1, N_ROWS, WIDTH), rows)
    assert spoken[0].any(-1).tolist() == [init == "paper" and row != begun.unknown_row for row in range(N_ROWS)]
    assert begun.tables.weight.any(-1).tolist() == [row != begun.unknown_row for row in range(N_ROWS)]
