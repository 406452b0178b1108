"""Training memory row by row: AdamW on the rows that were touched, with clipping, resumption and dense equality."""

from __future__ import annotations

import copy

import pytest
import torch
from peft import get_peft_model
from torch.nn.utils import clip_grad_norm_

from tests.memory.tiny import some_ids, tiny_config, tiny_model
from tinyengram.memory.layer import EngramMemory
from tinyengram.memory.optim import RowSparseAdamW, parameter_groups, row_sparse_adamw, teach_norm_of_sparse_gradients

SETTINGS = {"lr": 0.05, "betas": (0.8, 0.95), "eps": 1e-6, "weight_decay": 0.1}


def sparse(dense: torch.Tensor, rows: list[int]) -> torch.Tensor:
    return torch.sparse_coo_tensor(torch.tensor([rows]), dense[rows], dense.shape)


def test_where_every_row_is_touched_it_is_torchs_adamw() -> None:
    torch.manual_seed(0)
    ours, theirs = (torch.nn.Parameter(torch.ones(6, 3)) for _ in range(2))
    first, second = RowSparseAdamW([ours], **SETTINGS), torch.optim.AdamW([theirs], **SETTINGS)
    for _ in range(20):
        gradient = torch.randn(6, 3)
        ours.grad, theirs.grad = sparse(gradient, list(range(6))), gradient
        first.step()
        second.step()
        torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-7)


def test_a_row_moves_as_if_it_were_alone() -> None:
    torch.manual_seed(0)
    table, alone = torch.nn.Parameter(torch.ones(1000, 2)), torch.nn.Parameter(torch.ones(1, 2))
    ours, theirs = RowSparseAdamW([table], **SETTINGS), torch.optim.AdamW([alone], **SETTINGS)
    for step in range(12):
        gradient = torch.randn(1000, 2)
        rows = sorted({step * 7, 500, 999 - step} if step % 3 else {step * 7})
        table.grad = sparse(gradient, rows)
        ours.step()
        if 500 in rows:
            alone.grad = gradient[500:501]
            theirs.step()
    torch.testing.assert_close(table[500:501], alone, rtol=1e-6, atol=1e-7)
    assert len(ours.state[table]["rows"]) < 40
    assert len(ours.state[table]["exp_avg"]) == len(ours.state[table]["rows"])
    untouched = torch.ones(1000, dtype=torch.bool)
    untouched[ours.state[table]["rows"]] = False
    assert (table[untouched] == 1).all()


def test_clipping_is_torchs_own_with_rows_that_were_read_twice() -> None:
    torch.manual_seed(0)
    table, weight = torch.nn.Parameter(torch.zeros(5, 2)), torch.nn.Parameter(torch.zeros(3))
    dense_table, dense_weight = copy.deepcopy(table), copy.deepcopy(weight)
    read_twice = torch.sparse_coo_tensor(torch.tensor([[1, 1, 4]]), torch.randn(3, 2) * 5, (5, 2))
    gradient = torch.randn(3) * 5
    table.grad, weight.grad = read_twice, gradient.clone()
    dense_table.grad, dense_weight.grad = read_twice.to_dense(), gradient.clone()
    teach_norm_of_sparse_gradients()
    norm = clip_grad_norm_([table, weight], 0.7)
    torch.testing.assert_close(norm, clip_grad_norm_([dense_table, dense_weight], 0.7))
    assert table.grad is not None
    torch.testing.assert_close(table.grad.to_dense(), dense_table.grad)
    torch.testing.assert_close(weight.grad, dense_weight.grad)


def memory_with(optimizer: str, seed: int = 0):
    torch.manual_seed(seed)
    model = get_peft_model(tiny_model(), tiny_config(engram_vocab_size=[600, 300]))
    if optimizer == "rows":
        return model, row_sparse_adamw(model, 1e-2)
    return model, torch.optim.AdamW(parameter_groups(model, 1e-2))


def train(model, optimizer, steps: range) -> None:
    for step in steps:
        ids = some_ids(2, 12, seed=step)
        model(input_ids=ids, labels=ids).loss.backward()
        clip_grad_norm_([p for p in model.parameters() if p.requires_grad], 1.0)
        optimizer.step()
        optimizer.zero_grad()


def weights(model) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad}


def test_a_memorys_first_step_is_that_of_dense_adamw() -> None:
    rows, optimizer = memory_with("rows")
    train(rows, optimizer, range(1))
    dense, optimizer = memory_with("dense")
    train(dense, optimizer, range(1))
    for name, tensor in weights(dense).items():
        torch.testing.assert_close(weights(rows)[name], tensor, rtol=1e-5, atol=1e-6)


def test_gradients_hold_only_rows_that_were_read() -> None:
    model, _ = memory_with("rows")
    ids = some_ids(1, 6)
    model(input_ids=ids, labels=ids).loss.backward()
    tables = [module.tables.weight for module in model.modules() if isinstance(module, EngramMemory)]
    for table in tables:
        assert table.grad is not None
        assert table.grad.is_sparse
        assert 0 < table.grad.coalesce().indices().shape[1] <= 6 * 6


@pytest.mark.parametrize("through_file", [False, True])
def test_it_resumes_to_the_bit(tmp_path, through_file: bool) -> None:
    whole, optimizer = memory_with("rows")
    train(whole, optimizer, range(8))

    half, optimizer = memory_with("rows")
    train(half, optimizer, range(4))
    state, model_state = optimizer.state_dict(), half.state_dict()
    if through_file:
        torch.save({"optimizer": state, "model": model_state}, tmp_path / "state.pt")
        loaded = torch.load(tmp_path / "state.pt", weights_only=True)
        state, model_state = loaded["optimizer"], loaded["model"]
    again, optimizer = memory_with("rows", seed=1)
    again.load_state_dict(model_state)
    optimizer.load_state_dict(state)
    train(again, optimizer, range(4, 8))
    for name, tensor in weights(whole).items():
        assert torch.equal(weights(again)[name], tensor), name


def test_row_numbers_beyond_what_a_float_can_count_survive_a_round_trip() -> None:
    # 2^24 + 1 is no float32: torch casts optimizer state to the parameter's dtype.
    table = torch.nn.Parameter(torch.zeros(2**24 + 2, 1))
    row = 2**24 + 1
    table.grad = torch.sparse_coo_tensor(torch.tensor([[row]]), torch.ones(1, 1), table.shape)
    optimizer = RowSparseAdamW([table], lr=0.1)
    optimizer.step()
    again = RowSparseAdamW([table], lr=0.1)
    again.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    assert again.state[table]["rows"].tolist() == [row]
    assert again.state[table]["step"].dtype == torch.int64
