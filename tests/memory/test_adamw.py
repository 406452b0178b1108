"""AdamW row by row: torch's own where every row is touched, resumed to the bit, with state of touched rows alone."""

from __future__ import annotations

import copy
import io
from typing import Any

import pytest
import torch
from torch.nn.utils import clip_grad_norm_

from tinyengram.memory.adamw import RowSparseAdamW, teach_norm_of_sparse_gradients

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
    state = ours.state_dict()["state"][0]
    assert len(state["rows"]) < 40
    assert len(state["exp_avg"]) == len(state["rows"])
    untouched = torch.ones(1000, dtype=torch.bool)
    untouched[state["rows"]] = False
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


def test_row_numbers_beyond_what_a_float_can_count_survive_a_round_trip() -> None:
    # 2^24 + 1 is no float32: torch casts optimizer state to the parameter's dtype.
    table = torch.nn.Parameter(torch.zeros(2**24 + 2, 1))
    row = 2**24 + 1
    table.grad = torch.sparse_coo_tensor(torch.tensor([[row]]), torch.ones(1, 1), table.shape)
    optimizer = RowSparseAdamW([table], lr=0.1)
    optimizer.step()
    again = RowSparseAdamW([table], lr=0.1)
    again.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    state = again.state_dict()["state"][0]
    assert state["rows"].tolist() == [row]
    assert state["step"].dtype == torch.int64


def steps(optimizer: RowSparseAdamW, table: torch.nn.Parameter, numbers: range, *, dense: bool = False) -> None:
    """Each step touches 30 rows of 4000, some of them again."""
    for number in numbers:
        generator = torch.Generator().manual_seed(number)
        rows = torch.randperm(4000, generator=generator)[:30].sort().values.tolist()
        gradient = sparse(torch.randn(table.shape, generator=generator), rows)
        table.grad = gradient.to_dense() if dense else gradient
        optimizer.step()


def fresh(**group: Any) -> tuple[torch.nn.Parameter, RowSparseAdamW]:
    table = torch.nn.Parameter(torch.ones(4000, 2))
    return table, RowSparseAdamW([{"params": [table], **group}], **SETTINGS)


def test_a_dense_gradient_of_a_group_by_rows_stands_for_its_rows() -> None:
    (table, optimizer), (other, rows) = fresh(), fresh(by_rows=True)
    steps(optimizer, table, range(20))
    steps(rows, other, range(20), dense=True)
    assert torch.equal(other, table)


def test_it_is_resumed_with_gradients_of_the_other_kind() -> None:
    (table, optimizer), (other, again) = fresh(), fresh()
    steps(optimizer, table, range(10))
    with torch.no_grad():
        other.copy_(table)
    again.load_state_dict(optimizer.state_dict())
    steps(optimizer, table, range(10, 20))
    steps(again, other, range(10, 20), dense=True)
    assert torch.equal(other, table)


def test_state_of_before_is_taken_up_to_the_bit() -> None:
    """It was sorted by row; now it stands in the order in which rows were touched."""
    (table, optimizer), (other, again) = fresh(), fresh()
    steps(optimizer, table, range(10))
    saved = optimizer.state_dict()
    state = saved["state"][0]
    order = state["rows"].argsort()
    assert not torch.equal(order, torch.arange(len(order)))
    saved["state"][0] = {name: tensor[order] for name, tensor in state.items()}
    with torch.no_grad():
        other.copy_(table)
    again.load_state_dict(saved)
    steps(optimizer, table, range(10, 20))
    steps(again, other, range(10, 20))
    assert torch.equal(other, table)


def test_a_checkpoint_holds_what_is_in_use_and_is_a_copy() -> None:
    table, optimizer = fresh()
    steps(optimizer, table, range(50))
    touched = optimizer.state[table]["touched"]
    state = optimizer.state_dict()["state"][0]
    assert len(state["rows"]) == len(set(state["rows"].tolist())) < len(touched["rows"])
    file = io.BytesIO()
    torch.save(state, file)
    assert file.tell() < len(state["rows"]) * (2 * 8 + 2 * 2 * 4) + 4096  # A view would bring all that it views.
    before = {name: tensor.clone() for name, tensor in state.items()}
    steps(optimizer, table, range(50, 60))
    assert all(torch.equal(state[name], tensor) for name, tensor in before.items())


def test_what_is_loaded_is_a_copy() -> None:
    (table, optimizer), (other, again) = fresh(), fresh()
    steps(optimizer, table, range(10))
    saved = optimizer.state_dict()
    kept = copy.deepcopy(saved)
    again.load_state_dict(saved)
    steps(again, other, range(10))
    assert all(torch.equal(saved["state"][0][name], tensor) for name, tensor in kept["state"][0].items())


def test_growing_copies_ever_more_rarely() -> None:
    """A new row at each of 3000 steps: state is moved a few times, not 3000 times."""
    table, optimizer = fresh()
    capacities = set()
    for row in range(3000):
        table.grad = sparse(torch.ones(4000, 2), [row])
        optimizer.step()
        capacities.add(len(optimizer.state[table]["touched"]["exp_avg"]))
    assert sorted(capacities) == [1024, 2048, 4000]


def test_a_sparse_gradient_on_dense_state_is_refused() -> None:
    table, optimizer = fresh()
    table.grad = torch.ones(4000, 2)
    optimizer.step()
    table.grad = sparse(torch.ones(4000, 2), [7])
    with pytest.raises(ValueError, match="state of a dense AdamW"):
        optimizer.step()


def test_a_step_gives_what_the_closure_gives() -> None:
    table = torch.nn.Parameter(torch.ones(6, 3))
    optimizer = RowSparseAdamW([table], **SETTINGS)

    def closure() -> float:
        table.grad = sparse(torch.ones(6, 3), [1])
        return 2.5

    assert optimizer.step(closure) == 2.5
    assert table[1].ne(1).all()
    assert table[0].eq(1).all()
