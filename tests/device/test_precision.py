"""In bfloat16, in float16, under autocast and on quantised bases: as near as the base itself comes."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import get_peft_model
from transformers import AutoModelForCausalLM, DynamicCache

from tests.device.agreement import agree
from tests.memory.tiny import full, logits_of, stir, tiny_config, tiny_model, trained_memory
from tinyengram.memory.optim import row_sparse_adamw

pytestmark = pytest.mark.device
HALVES = [torch.bfloat16, torch.float16]


def in_parts(model: Any, ids: torch.Tensor) -> torch.Tensor:
    cache = DynamicCache(config=model.config)
    return torch.cat([logits_of(model, part, cache=cache) for part in ids.split([9, 1, 1, 13], dim=1)], dim=1)


@pytest.mark.parametrize("dtype", HALVES)
def test_cached_is_uncached_in_16_bits(model: Any, ids: torch.Tensor, dtype: torch.dtype) -> None:
    model = model.to(dtype)
    assert full(model, ids).dtype == dtype
    agree(model, lambda one: in_parts(one, ids), lambda one: full(one, ids))


@pytest.mark.parametrize("dtype", HALVES)
def test_16_bits_are_near_float32(device: torch.device, ids: torch.Tensor, dtype: torch.dtype) -> None:
    whole = trained_memory().to(device)
    with whole.disable_adapter():
        base = full(whole, ids)
    wanted = full(whole, ids)
    model = whole.to(dtype)
    with model.disable_adapter():
        noise = (full(model, ids).float() - base).abs().max()
    found = full(model, ids).float()
    assert (found - wanted).abs().max() <= 8 * noise + 0.05 * wanted.abs().max()


@pytest.mark.parametrize("dtype", HALVES)
def test_under_autocast(model: Any, device: torch.device, ids: torch.Tensor, dtype: torch.dtype) -> None:
    def cast(one: Any) -> torch.Tensor:
        with torch.autocast(device.type, dtype):
            return full(one, ids)

    def cast_in_parts(one: Any) -> torch.Tensor:
        with torch.autocast(device.type, dtype):
            return in_parts(one, ids)

    agree(model, cast, lambda one: full(one, ids))
    agree(model, cast_in_parts, cast)
    tables = [parameter for name, parameter in model.named_parameters() if name.endswith("tables.weight")]
    assert {table.dtype for table in tables} == {torch.float32}


def test_a_memory_in_float32_on_a_bfloat16_base(device: torch.device, ids: torch.Tensor) -> None:
    model = get_peft_model(tiny_model().to(device, torch.bfloat16), tiny_config()).eval()
    stir(model)
    assert {p.dtype for name, p in model.named_parameters() if "engram_" in name} == {torch.float32}
    agree(model, lambda one: in_parts(one, ids), lambda one: full(one, ids))


def quantised(kind: str, folder: Path, device: torch.device) -> Any:
    """The tiny base in 4 or 8 bits; skipped, by name, where the library is not installed."""
    library = kind.split()[0]
    if find_spec(library) is None:
        pytest.skip(f"a base in {kind}: {library} is not installed")
    if kind == "torchao int8":
        from torchao.quantization import Int8WeightOnlyConfig
        from transformers import TorchAoConfig

        config: Any = TorchAoConfig(Int8WeightOnlyConfig())
    else:
        from transformers import BitsAndBytesConfig

        config = BitsAndBytesConfig(**{"load_in_4bit" if kind.endswith("4bit") else "load_in_8bit": True})
    tiny_model(hidden_size=64, intermediate_size=128, head_dim=16).save_pretrained(folder)
    return AutoModelForCausalLM.from_pretrained(
        folder, quantization_config=config, dtype=torch.bfloat16, device_map={"": str(device)}
    ).eval()


@pytest.mark.parametrize("kind", ["bitsandbytes 4bit", "bitsandbytes 8bit", "torchao int8"])
def test_a_quantised_base(device: torch.device, needs: Any, ids: torch.Tensor, kind: str, tmp_path: Path) -> None:
    needs("cuda", f"a base in {kind}")
    base = quantised(kind, tmp_path / "base", device)
    wanted = full(base, ids)
    model = get_peft_model(base, tiny_config()).eval()
    assert torch.equal(full(model, ids), wanted)
    optimizer = row_sparse_adamw(model.train(), 1e-2)
    losses = []
    for _ in range(6):
        loss = model(input_ids=ids, labels=ids, use_cache=False).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    model.eval()
    agree(model, lambda one: in_parts(one, ids), lambda one: full(one, ids))
    model.save_pretrained(tmp_path / "adapter")
    again = type(model).from_pretrained(quantised(kind, tmp_path / "base", device), tmp_path / "adapter").eval()
    assert torch.equal(full(again, ids), full(model, ids))
