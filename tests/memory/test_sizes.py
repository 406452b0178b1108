"""What a memory is said to take is what it takes, and as many n-grams share rows as was said."""

from __future__ import annotations

import pytest
import torch
from peft import get_peft_model

from tests.memory.tiny import some_ids, tiny_model
from tinyengram import EngramConfig, collect_ngrams
from tinyengram.memory.layer import EngramMemory
from tinyengram.memory.ngrams import hash_multipliers, hashed_rows, head_sizes
from tinyengram.memory.optim import row_sparse_adamw
from tinyengram.memory.sizes import MemorySize, exact_size, expected_sharing, hashed_size, sharing_of_hashed

IDS = some_ids(8, 60, seed=3)
LEARNT = IDS[:, :-1].tolist()  # Nothing comes after the last.


def taken(config: EngramConfig) -> MemorySize:
    """Rows and bytes of a memory that learnt the ids; in the first step a value of zeros keeps rows from learning."""
    model = get_peft_model(tiny_model(), config)
    memories = [module for module in model.modules() if isinstance(module, EngramMemory)]
    tables = sum(memory.tables.weight.numel() for memory in memories) * 4
    trainable = sum(one.numel() for one in model.parameters() if one.requires_grad) * 4
    optimizer = row_sparse_adamw(model, 1e-3)
    for _ in range(2):
        optimizer.zero_grad()
        model(input_ids=IDS, labels=IDS).loss.backward()
        optimizer.step()
    states = optimizer.state_dict()["state"].values()
    moments = sum(state[name].numel() * 4 for state in states for name in ("exp_avg", "exp_avg_sq"))
    return MemorySize(sum(len(memory.tables.weight) for memory in memories), tables, trainable - tables, moments)


@pytest.mark.parametrize("kernel_size", [4, 0])
def test_an_exact_memory(kernel_size: int) -> None:
    known = collect_ngrams(LEARNT, orders=(2, 3))
    config = EngramConfig(
        memory="exact",
        ngrams=known,
        layer_ids=[1, 2, 3],
        n_embed_per_ngram=16,
        kernel_size=kernel_size,
        init="zero_value",
    )
    assert taken(config) == exact_size(config, 32)


def test_a_hashed_memory() -> None:
    config = EngramConfig(
        layer_ids=[1, 2], max_ngram_size=3, engram_vocab_size=[300, 200], n_embed_per_ngram=16, n_head_per_ngram=4,
        init="zero_value",
    )  # fmt: skip
    distinct = [int((collect_ngrams(LEARNT, orders=(order,)).ngrams >= 0).any(-1).sum()) for order in (2, 3)]
    real, said = taken(config), hashed_size(config, distinct, 32)
    assert (real.rows, real.tables, real.projections) == (said.rows, said.tables, said.projections)
    assert said.optimizer == pytest.approx(real.optimizer, rel=0.02)


@pytest.mark.parametrize("rows", [101, 1009, 4001])
def test_as_many_ngrams_share_a_row_as_expected(rows: int) -> None:
    ngrams = torch.randint(0, 5000, (1, 2000, 2), generator=torch.Generator().manual_seed(0)).unique(dim=1)
    sizes = torch.tensor([head_sizes([1], [rows], 1)[1][0]])
    shared = 0.0
    for seed in range(8):
        found = hashed_rows(ngrams, hash_multipliers(1, 2, 5000, seed), sizes, int(sizes.max())).flatten()
        shared += (torch.bincount(found)[found] > 1).float().mean().item() / 8
    assert expected_sharing(ngrams.shape[1], int(sizes[0, 0])) == pytest.approx(shared, abs=0.02)


def test_an_ngram_is_alone_where_any_head_tells_it_apart() -> None:
    config = EngramConfig(layer_ids=[1, 2], max_ngram_size=2, engram_vocab_size=[700], n_head_per_ngram=4)
    ngrams = torch.randint(0, 5000, (1, 1000, 2), generator=torch.Generator().manual_seed(0)).unique(dim=1)
    sizes = torch.tensor(head_sizes([1, 2], [700], 4)[1])
    one, every = 0.0, 0.0
    for seed in range(8):
        found = hashed_rows(ngrams, hash_multipliers(1, 2, 5000, seed), sizes, int(sizes.max()))[0]
        shared = torch.bincount(found.flatten())[found] > 1
        one, every = one + shared.float().mean().item() / 8, every + shared.all(-1).float().mean().item() / 8
    ((said_one, said_every),) = sharing_of_hashed(config, [ngrams.shape[1]])
    assert said_one == pytest.approx(one, abs=0.02)
    assert said_every == pytest.approx(every, abs=0.03)
    assert 0.2 < every < one - 0.2


def test_no_ngrams() -> None:
    with pytest.raises(ValueError, match="give ngrams=collect_ngrams"):
        exact_size(EngramConfig(), 32)
    assert expected_sharing(0, 5) == expected_sharing(1, 5) == 0


def test_sharing_is_that_of_the_block_that_claims_its_primes_first() -> None:
    options = {"max_ngram_size": 2, "engram_vocab_size": [50], "n_head_per_ngram": 1, "n_embed_per_ngram": 16}
    (one_head, every_head), *_ = sharing_of_hashed(EngramConfig(layer_ids=[3, 1], **options), [1000])
    assert one_head == every_head == expected_sharing(1000, 53)
