"""Training memory row by row: sparse gradients, groups at rates of their own, resumption and dense equality."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from peft import get_peft_model
from torch.nn.utils import clip_grad_norm_

from tests.memory.tiny import some_ids, tiny_config, tiny_model
from tinyengram.memory.layer import EngramMemory
from tinyengram.memory.optim import parameter_groups, row_sparse_adamw


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


def rates(model: Any, factor: float | None = None) -> dict[str, float]:
    """Learning rate of each table, by adapter."""
    group_of = {id(p): group for group in parameter_groups(model, 1.0, 0.1, factor) for p in group["params"]}
    tables = {name: p for name, p in model.named_parameters() if name.endswith("tables.weight") and p.requires_grad}
    assert all(group_of[id(p)]["weight_decay"] == 0 for p in tables.values())
    return {name.split(".")[-3]: group_of[id(p)]["lr"] for name, p in tables.items()}


def test_each_memory_has_its_own_rate_unless_one_is_given() -> None:
    model = get_peft_model(tiny_model(), tiny_config(), "first")
    model.add_adapter("second", tiny_config(table_learning_rate_factor=2.0))
    model.base_model.set_adapter(["first", "second"])
    assert rates(model) == {"first": 5.0, "second": 2.0}
    assert rates(model, 3.0) == {"first": 3.0, "second": 3.0}


@pytest.mark.parametrize("factor", [0, -1.0, float("inf"), float("nan"), True, "5"])
def test_a_factor_that_is_none_is_refused(factor: Any) -> None:
    with pytest.raises(ValueError, match="table_learning_rate_factor="):
        tiny_config(table_learning_rate_factor=factor)
