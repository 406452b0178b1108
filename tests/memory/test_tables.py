"""Tables in host memory: the same bits, whatever moves, and taken from the file as it lies."""

from __future__ import annotations

import mmap
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel, get_peft_model

from tests.memory.tiny import logits_of, some_ids, tiny_config, tiny_model, train_briefly, trained_memory
from tinyengram import EngramConfig, collect_ngrams
from tinyengram.memory.layer import EngramMemory
from tinyengram.memory.reading import Reading
from tinyengram.memory.tables import zeros

IDS = some_ids()
MEMORIES: dict[str, dict[str, Any]] = {
    "hashed": {},
    "exact": {"memory": "exact", "ngrams": collect_ngrams(IDS[:1].tolist(), orders=(2, 3), pad_token_id=0)},
}


def memories(model: torch.nn.Module) -> list[EngramMemory]:
    return [module for module in model.modules() if isinstance(module, EngramMemory)]


@pytest.mark.parametrize("memory", MEMORIES)
def test_the_same_bits_as_on_the_device(memory: str) -> None:
    on_host = trained_memory(tables_on="cpu", **MEMORIES[memory])
    assert torch.equal(logits_of(on_host, IDS), logits_of(trained_memory(**MEMORIES[memory]), IDS))


def test_trained_as_on_the_device() -> None:
    models = [get_peft_model(tiny_model(), tiny_config(tables_on=where)) for where in ("device", "cpu")]
    for model in models:
        train_briefly(model, IDS, steps=3)
    parameters = zip(models[0].parameters(), models[1].parameters(), strict=True)
    assert all(torch.equal(one, other) for one, other in parameters)


def test_they_stay_where_everything_else_is_moved_from() -> None:
    model = trained_memory(tables_on="cpu")
    model.to("meta")
    devices = {name: parameter.device.type for name, parameter in model.named_parameters()}
    assert {where for name, where in devices.items() if name.endswith("tables.weight")} == {"cpu"}
    assert {where for name, where in devices.items() if not name.endswith("tables.weight")} == {"meta"}
    assert {p.device.type for n, p in trained_memory().to("meta").named_parameters() if "tables" in n} == {"meta"}


def test_they_follow_a_change_of_type() -> None:
    model, wanted = trained_memory(tables_on="cpu"), trained_memory()
    for one in (model, wanted):
        one.to(torch.float64)
    assert {memory.tables.weight.dtype for memory in memories(model)} == {torch.float64}
    assert torch.equal(logits_of(model, IDS), logits_of(wanted, IDS))


@pytest.mark.parametrize("memory", MEMORIES)
def test_rows_are_under_way_before_the_first_block(memory: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """To where the block is, for which the meta device stands in; what a block then uses is what was brought."""
    model, brought = trained_memory(tables_on="cpu", **MEMORIES[memory]), []
    fetch, find = EngramMemory.fetch, EngramMemory.find

    def from_afar(self: EngramMemory, rows: torch.Tensor, reading: Reading, key: tuple[str, int]) -> None:
        weight = self.key_proj.weight
        self.key_proj.weight = torch.nn.Parameter(weight.to("meta"))
        fetch(self, rows, reading, key)
        assert reading.fetched[key].device.type == "meta"
        brought.append(key)
        self.key_proj.weight = weight
        reading.fetched[key] = find(self, self._to_read(rows, reading, key[0])[1], weight.device)

    def not_again(*_: Any) -> torch.Tensor:
        raise AssertionError("looked up again")

    def first_block(*_: Any) -> None:
        assert brought == [("default", 1), ("default", 2)]
        monkeypatch.setattr(EngramMemory, "find", not_again)

    monkeypatch.setattr(EngramMemory, "fetch", from_afar)
    model.get_base_model().model.layers[0].register_forward_pre_hook(first_block)
    found = logits_of(model, IDS)
    assert len(brought) == 2
    monkeypatch.undo()
    assert torch.equal(found, logits_of(trained_memory(**MEMORIES[memory]), IDS))


def load(folder: Path, **changes: Any) -> PeftModel:
    return PeftModel.from_pretrained(tiny_model(), folder, config=EngramConfig.from_pretrained(folder, **changes))


def lies_in(file: Path, tensor: torch.Tensor) -> bool:
    """Whether memory at a tensor is mapped from ``file``."""
    for line in Path("/proc/self/maps").read_text().splitlines():
        begin, end = (int(at, 16) for at in line.split()[0].split("-"))
        if begin <= tensor.data_ptr() < end:
            return line.endswith(str(file))
    return False


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="shows what is mapped by Linux's own account")
@pytest.mark.parametrize("whole", [True, False])
def test_loaded_for_inference(tmp_path: Path, whole: bool) -> None:
    """Mapped from a file that holds whole tables; built from its rows if it holds those."""
    options = {} if whole else {"engram_vocab_size": [5000, 5000]}
    trained = get_peft_model(tiny_model(), tiny_config(**options))
    train_briefly(trained, IDS, steps=2)
    if whole:
        trained = trained_memory()
    trained.save_pretrained(tmp_path)
    file = tmp_path / "adapter_model.safetensors"
    on_host, on_device = load(tmp_path, tables_on="cpu"), load(tmp_path)
    assert [lies_in(file, memory.tables.weight) for memory in memories(on_host)] == [whole] * 2
    assert [lies_in(file, memory.tables.weight) for memory in memories(on_device)] == [False] * 2
    for one in (on_host, on_device):
        assert torch.equal(logits_of(one, IDS), logits_of(trained, IDS))
    assert EngramConfig.from_pretrained(tmp_path).tables_on == "device", "not a property of what is saved"
    wanted = logits_of(trained, IDS)
    on_host.save_pretrained(tmp_path)  # Over the file that it is mapped from.
    assert torch.equal(logits_of(load(tmp_path), IDS), wanted)


def test_loaded_for_training_they_are_a_copy(tmp_path: Path) -> None:
    trained_memory().save_pretrained(tmp_path)
    config = EngramConfig.from_pretrained(tmp_path, tables_on="cpu")
    config.inference_mode = False
    model = PeftModel.from_pretrained(tiny_model(), tmp_path, config=config, is_trainable=True)
    file = tmp_path / "adapter_model.safetensors"
    assert not any(lies_in(file, memory.tables.weight) for memory in memories(model))


def test_another_place_is_refused() -> None:
    with pytest.raises(ValueError, match=r"tables_on='disk' is unknown; choose one of device, cpu"):
        tiny_config(tables_on="disk")


def test_zeros_where_the_system_has_no_fresh_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    with torch.device("meta"):
        assert zeros(3, 2).device.type == "meta"
    monkeypatch.delattr(mmap, "MAP_PRIVATE")
    found = zeros(3, 2, dtype=torch.bfloat16)
    assert (found.shape, found.dtype, found.device.type) == ((3, 2), torch.bfloat16, "cpu")
    assert not found.any()
