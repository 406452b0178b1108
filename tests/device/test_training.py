"""Training on a device: the CPU's steps to tolerance, rows alone, clipped, scaled, checkpointed and resumed."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import get_peft_model
from torch.nn.utils import clip_grad_norm_

from tests.device.conftest import memory_of
from tests.memory.tiny import some_ids, tiny_config, tiny_model
from tinyengram.memory.layer import EngramMemory
from tinyengram.memory.optim import parameter_groups, row_sparse_adamw

pytestmark = pytest.mark.device
# So large that a gradient of next to nothing, which is rounding, is no step.
EPS = 1e-4


def fresh(device: torch.device | str, *, by_rows: bool = True, **options: Any) -> tuple[Any, torch.optim.Optimizer]:
    torch.manual_seed(0)
    model = get_peft_model(tiny_model(), tiny_config(**{"engram_vocab_size": [600, 300], **options})).to(device)
    if by_rows:
        return model, row_sparse_adamw(model, 1e-2, eps=EPS)
    return model, torch.optim.AdamW(parameter_groups(model, 1e-2), eps=EPS)


def batch(step: int, model: Any) -> torch.Tensor:
    return some_ids(2, 12, seed=step).to(model.device)


def train(model: Any, optimizer: Any, steps: range) -> list[float]:
    """Gradients' norms before clipping."""
    norms = []
    for step in steps:
        ids = batch(step, model)
        model(input_ids=ids, labels=ids).loss.backward()
        norms.append(clip_grad_norm_([p for p in model.parameters() if p.requires_grad], 1.0).item())
        optimizer.step()
        optimizer.zero_grad()
    return norms


def weights(model: Any) -> dict[str, torch.Tensor]:
    return {name: p.detach().cpu().clone() for name, p in model.named_parameters() if p.requires_grad}


def near(found: Any, wanted: Any) -> None:
    for name, tensor in weights(wanted).items():
        torch.testing.assert_close(weights(found)[name], tensor, rtol=1e-3, atol=1e-4, msg=lambda m, n=name: f"{n} {m}")


def test_steps_are_those_of_the_cpu(device: torch.device) -> None:
    there, here = fresh(device), fresh("cpu")
    before = weights(here[0])
    assert train(*there, range(6)) == pytest.approx(train(*here, range(6)), rel=1e-3)
    near(there[0], here[0])
    assert all(not torch.equal(before[name], tensor) for name, tensor in weights(here[0]).items() if "conv" not in name)


def test_gradients_are_sparse_and_clipped_as_dense_ones_are(device: torch.device) -> None:
    rows, dense = fresh(device), fresh(device, by_rows=False)
    norms = []
    for model, _ in (rows, dense):
        ids = batch(0, model)
        model(input_ids=ids, labels=ids).loss.backward()
        norms.append(clip_grad_norm_([p for p in model.parameters() if p.requires_grad], 1e-2))
    tables = [[m.tables.weight for m in model.modules() if isinstance(m, EngramMemory)] for model, _ in (rows, dense)]
    for sparse, whole in zip(*tables, strict=True):
        assert sparse.grad.is_sparse
        assert sparse.grad.device.type == device.type
        assert 0 < sparse.grad.coalesce().indices().shape[1] <= 2 * 12 * 4
        torch.testing.assert_close(sparse.grad.to_dense(), whole.grad, rtol=1e-3, atol=1e-7)
    torch.testing.assert_close(norms[0], norms[1], rtol=1e-4, atol=0)


def test_one_step_by_rows_is_one_of_dense_adamw(device: torch.device) -> None:
    rows, dense = fresh(device), fresh(device, by_rows=False)
    train(*rows, range(1))
    train(*dense, range(1))
    near(rows[0], dense[0])


def test_float16_with_scaled_gradients(device: torch.device) -> None:
    """A step whose gradients overflow is left out; the others learn."""
    model, optimizer = fresh(device)
    scaler = torch.amp.GradScaler(device.type, init_scale=2.0**40)
    losses, ids = [], batch(0, model)
    for _ in range(40):
        with torch.autocast(device.type, torch.float16):
            loss = model(input_ids=ids, labels=ids).loss
        scaler.scale(loss).backward()
        scaler.unscale_(optimizer)
        clip_grad_norm_([p for p in model.parameters() if p.requires_grad], 1.0)
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert scaler.get_scale() < 2.0**40
    assert losses[-1] < losses[0] - 0.5
    assert all(torch.isfinite(tensor).all() for tensor in weights(model).values())


@pytest.mark.parametrize("kind", ["hashed", "exact"])
def test_gradient_checkpointing_gives_the_same_gradients(device: torch.device, kind: str) -> None:
    gradients = []
    for checkpointing in (False, True):
        model = memory_of(kind).to(device).train()
        if checkpointing:
            model.gradient_checkpointing_enable()
            model.enable_input_require_grads()
        ids = batch(0, model)
        model(input_ids=ids, labels=ids).loss.backward()
        gradients.append({name: p.grad for name, p in model.named_parameters() if p.requires_grad})
    for name, gradient in gradients[0].items():
        scale = gradient.abs().max().item()
        torch.testing.assert_close(gradients[1][name], gradient, rtol=1e-3, atol=1e-4 * scale)


@pytest.mark.parametrize("through", ["cpu", "device"])
def test_it_is_resumed_from_a_file(device: torch.device, through: str, tmp_path: Path) -> None:
    whole, optimizer = fresh(device)
    train(whole, optimizer, range(8))
    half, optimizer = fresh(device)
    train(half, optimizer, range(4))
    torch.save({"optimizer": optimizer.state_dict(), "model": half.state_dict()}, tmp_path / "state.pt")
    loaded = torch.load(tmp_path / "state.pt", weights_only=True, map_location="cpu" if through == "cpu" else device)
    again, optimizer = fresh(device)
    again.load_state_dict(loaded["model"])
    optimizer.load_state_dict(loaded["optimizer"])
    train(again, optimizer, range(4, 8))
    near(again, whole)


def test_a_run_begun_on_the_device_goes_on_on_the_cpu(device: torch.device) -> None:
    there, optimizer = fresh(device)
    train(there, optimizer, range(4))
    here, resumed = fresh("cpu")
    here.load_state_dict({name: tensor.cpu() for name, tensor in there.state_dict().items()})
    resumed.load_state_dict(copy.deepcopy(optimizer.state_dict()))  # On one device a loaded state is shared.
    train(there, optimizer, range(4, 8))
    train(here, resumed, range(4, 8))
    near(here, there)


def test_state_follows_rows_not_the_table(device: torch.device, needs: Any) -> None:
    """A table of 64 million numbers: no step makes a gradient or moments of its size."""
    needs("cuda", "peak memory of the device")
    model, optimizer = fresh(device, engram_vocab_size=[2_000_000, 2_000_000], layer_ids=[1])
    table = sum(p.nbytes for name, p in model.named_parameters() if name.endswith("tables.weight"))
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    train(model, optimizer, range(4))
    # One place a row, of 4 bytes, and little else.
    assert torch.cuda.max_memory_allocated(device) - before < table / 4
