"""Nothing before training, nothing where untaught, and the same after a round trip: to the bit, on the device."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel, get_peft_model

from tests.device.conftest import MEMORIES, memory_of
from tests.memory.tiny import full, some_ids, stir, tiny_config, tiny_model, train_briefly
from tinyengram import collect_ngrams
from tinyengram.memory.layer import EngramMemory

pytestmark = pytest.mark.device
TAUGHT = some_ids(6, 30, seed=11) % 47 + 3
UNTAUGHT = some_ids(2, 24) % 47 + 50


@pytest.mark.smoke
@pytest.mark.parametrize("kind", MEMORIES)
def test_the_same_at_the_start_and_when_disabled(device: torch.device, ids: torch.Tensor, kind: str) -> None:
    base = tiny_model().to(device)
    wanted = full(base, ids)
    options = dict(MEMORIES[kind])
    if kind == "exact":
        options["ngrams"] = collect_ngrams(ids.tolist(), orders=(2, 3))
    model = get_peft_model(base, tiny_config(**options)).eval()
    assert {tensor.device.type for tensor in model.state_dict().values()} == {device.type}
    assert torch.equal(full(model, ids), wanted)
    stir(model)
    assert (full(model, ids) - wanted).abs().max() > 1
    with model.disable_adapter():
        assert torch.equal(full(model, ids), wanted)


def test_moving_the_model_moves_the_memory(device: torch.device, ids: torch.Tensor) -> None:
    """Also tables whose zeros are fresh pages of the host's memory."""
    moved = memory_of("hashed").to(device)
    made_there = get_peft_model(tiny_model().to(device), tiny_config()).eval()
    stir(made_there)
    assert torch.equal(full(moved, ids), full(made_there, ids))
    torch.testing.assert_close(full(moved, ids).cpu(), full(memory_of("hashed"), ids.cpu()), atol=5e-4, rtol=0)


def test_an_exact_memory_is_silent_on_texts_without_a_known_ngram(device: torch.device) -> None:
    known = collect_ngrams(TAUGHT.tolist(), orders=(2, 3), pad_token_id=0)
    model = get_peft_model(tiny_model().to(device), tiny_config(memory="exact", ngrams=known))
    stir(model)
    model.eval()
    base = tiny_model().to(device)
    for text in (UNTAUGHT, UNTAUGHT[:, :1]):
        assert torch.equal(full(model, text.to(device)), full(base, text.to(device)))
    assert (full(model, TAUGHT.to(device)) - full(base, TAUGHT.to(device))).abs().max() > 1


def test_a_hashed_memory_is_silent_on_rows_that_were_not_trained(device: torch.device) -> None:
    """The tables are so large that texts of other tokens fall on other rows."""
    model = get_peft_model(tiny_model().to(device), tiny_config(engram_vocab_size=[200_000, 200_000]))
    stir(model, rows=False)
    train_briefly(model, TAUGHT.to(device), steps=2)
    base = tiny_model().to(device)
    assert torch.equal(full(model, UNTAUGHT.to(device)), full(base, UNTAUGHT.to(device)))
    assert (full(model, TAUGHT.to(device)) - full(base, TAUGHT.to(device))).abs().max() > 0.1


def tensors_of(model: Any) -> dict[str, torch.Tensor]:
    return {name: tensor.cpu() for name, tensor in model.state_dict().items() if "engram_" in name}


@pytest.mark.parametrize("kind", MEMORIES)
def test_a_round_trip_by_way_of_the_cpu(device: torch.device, ids: torch.Tensor, kind: str, tmp_path: Path) -> None:
    model = memory_of(kind).to(device)
    model.save_pretrained(tmp_path / "from_device")
    memory_of(kind).save_pretrained(tmp_path / "from_cpu")
    names = ("adapter_model.safetensors", "adapter_config.json")
    for name in names:
        assert (tmp_path / "from_device" / name).read_bytes() == (tmp_path / "from_cpu" / name).read_bytes()
    on_cpu = PeftModel.from_pretrained(tiny_model(), tmp_path / "from_device", torch_device="cpu").eval()
    on_device = PeftModel.from_pretrained(tiny_model().to(device), tmp_path / "from_device").eval()
    for loaded in (on_cpu, on_device):
        found = tensors_of(loaded)
        assert all(torch.equal(found[name], tensor) for name, tensor in tensors_of(model).items())
    assert torch.equal(full(on_device, ids), full(model, ids))
    assert torch.equal(full(on_cpu.to(device), ids), full(model, ids))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_round_trip_in_16_bits(device: torch.device, ids: torch.Tensor, dtype: torch.dtype, tmp_path: Path) -> None:
    model = memory_of("hashed").to(device, dtype)
    model.save_pretrained(tmp_path)
    again = PeftModel.from_pretrained(tiny_model().to(device, dtype), tmp_path, autocast_adapter_dtype=False).eval()
    assert torch.equal(full(again, ids), full(model, ids))
    tables = [module.tables.weight for module in again.modules() if isinstance(module, EngramMemory)]
    assert {table.dtype for table in tables} == {dtype}


def test_two_memories(device: torch.device, ids: torch.Tensor) -> None:
    def both(model: Any) -> Any:
        model.add_adapter("second", tiny_config(max_ngram_size=4, engram_vocab_size=[50, 40, 30], kernel_size=6))
        model.base_model.set_adapter(["default", "second"])
        stir(model, seed=8)
        return model.eval()

    there, here = both(memory_of("hashed").to(device)), both(memory_of("hashed"))
    alone = {}
    for names in (["default", "second"], ["second"], ["default"]):
        for one in (there, here):
            one.base_model.set_adapter(names)
        alone[tuple(names)] = full(there, ids)
        torch.testing.assert_close(full(there, ids).cpu(), full(here, ids.cpu()), atol=5e-4, rtol=1e-4)
    first, second, third = alone.values()
    assert min((first - second).abs().max(), (second - third).abs().max()) > 1
