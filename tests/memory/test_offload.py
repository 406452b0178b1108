"""A memory on a base that accelerate keeps elsewhere, and a memory kept elsewhere itself: right, or refused by name."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import cpu_offload, disk_offload
from accelerate.utils.modeling import get_state_dict_offloaded_model
from peft import PeftModel, get_peft_model, load_peft_weights, set_peft_model_state_dict
from transformers import AutoModelForCausalLM

from tests.memory.tiny import logits_of, some_ids, stir, tiny_config, tiny_model, trained_memory
from tinyengram import EngramConfig

IDS = some_ids()
ON_DISK = {
    "model.embed_tokens": "cpu",
    "model.layers.0": "cpu",
    "model.layers.1": "disk",
    "model.layers.2": "disk",
    "model.layers.3": "disk",
    "model.norm": "cpu",
    "model.rotary_emb": "cpu",
    "lm_head": "cpu",
}
Place = Callable[[Any, Path], Any]


def to_cpu(model: Any, folder: Path) -> Any:
    cpu_offload(model, execution_device="cpu")
    return model


def to_disk(model: Any, folder: Path) -> Any:
    disk_offload(model, str(folder / "offloaded"), execution_device="cpu")
    return model


def by_device_map(model: Any, folder: Path) -> Any:
    model.save_pretrained(folder / "base")
    return AutoModelForCausalLM.from_pretrained(
        folder / "base", device_map=ON_DISK, offload_folder=str(folder / "offloaded")
    ).eval()


@pytest.mark.parametrize("place", [to_cpu, to_disk, by_device_map])
def test_a_memory_on_an_offloaded_base(place: Place, tmp_path: Path) -> None:
    model = get_peft_model(place(tiny_model(), tmp_path), tiny_config())
    stir(model)
    model.eval()
    assert torch.equal(logits_of(model, IDS), logits_of(trained_memory(), IDS))
    model.save_pretrained(tmp_path / "adapter")
    again = PeftModel.from_pretrained(tiny_model(), tmp_path / "adapter")
    assert torch.equal(logits_of(again, IDS), logits_of(model, IDS))


@pytest.mark.parametrize("place", [to_cpu, to_disk])
def test_an_offloaded_memory(place: Place, tmp_path: Path) -> None:
    model = place(trained_memory(), tmp_path)
    assert torch.equal(logits_of(model, IDS), logits_of(trained_memory(), IDS))
    with pytest.raises(ValueError, match="get_state_dict_offloaded_model"):
        model.save_pretrained(tmp_path / "adapter")
    model.save_pretrained(tmp_path / "adapter", state_dict=get_state_dict_offloaded_model(model))
    again = PeftModel.from_pretrained(tiny_model(), tmp_path / "adapter")
    assert torch.equal(logits_of(again, IDS), logits_of(model, IDS))


def test_offloaded_buffers_are_refused() -> None:
    model = trained_memory()
    cpu_offload(model, execution_device="cpu", offload_buffers=True)
    with pytest.raises(ValueError, match="offload_buffers=False"):
        logits_of(model, IDS)


def test_an_adapter_on_a_base_on_disk_is_refused_with_a_way_that_works(tmp_path: Path) -> None:
    trained_memory().save_pretrained(tmp_path / "adapter")
    with pytest.raises(ValueError, match=r"lies partly on disk.*set_peft_model_state_dict"):
        PeftModel.from_pretrained(by_device_map(tiny_model(), tmp_path), tmp_path / "adapter")
    base = by_device_map(tiny_model(), tmp_path)
    model = get_peft_model(base, EngramConfig.from_pretrained(tmp_path / "adapter")).eval()
    set_peft_model_state_dict(model, load_peft_weights(str(tmp_path / "adapter")))
    assert torch.equal(logits_of(model, IDS), logits_of(trained_memory(), IDS))
