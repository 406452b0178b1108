"""Several memories of one model: which parameters train, as PEFT's own tests ask it of perceptrons."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel, get_peft_model

from tests.memory.tiny import logits_of, some_ids, tiny_config, tiny_model, trained_memory
from tinyengram.memory.layer import EngramLayer

HEAD = {"modules_to_save": ["lm_head"]}


def trained_adapters(model: Any) -> set[str]:
    """Adapters all of whose parameters train; no other parameter may."""
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    adapters = {name for name in model.peft_config if any(f".{name}." in parameter for parameter in trained)}
    for name, _ in model.named_parameters():
        assert (name in trained) == any(f".{adapter}." in name for adapter in adapters), name
    return adapters


@pytest.mark.parametrize("options", [{}, HEAD], ids=["memory", "memory and head"])
@pytest.mark.parametrize("is_trainable", [False, True])
def test_loading_trains_what_one_asks_for_and_leaves_the_rest(options: Any, is_trainable: bool, tmp_path: Path) -> None:
    get_peft_model(tiny_model(), tiny_config(**options)).save_pretrained(tmp_path)
    model = PeftModel.from_pretrained(tiny_model(), tmp_path, is_trainable=is_trainable)
    wanted = {"default"} if is_trainable else set()
    assert trained_adapters(model) == wanted
    model.load_adapter(tmp_path, adapter_name="other", is_trainable=is_trainable)
    wanted |= {"other"} if is_trainable else set()
    assert trained_adapters(model) == wanted
    model.load_adapter(tmp_path, adapter_name="opposite", is_trainable=not is_trainable)
    wanted |= set() if is_trainable else {"opposite"}
    assert trained_adapters(model) == wanted
    model.add_adapter("added", tiny_config(**options))
    assert trained_adapters(model) == wanted


def test_a_switch_trains_the_one_that_is_chosen() -> None:
    model = get_peft_model(tiny_model(), tiny_config(layer_ids=[0, 1], **HEAD))
    model.add_adapter("other", tiny_config(layer_ids=[1, 2]))
    assert trained_adapters(model) == {"default"}
    model.set_adapter("other")
    assert trained_adapters(model) == {"other"}
    model.base_model.set_adapter(["default", "other"])
    assert trained_adapters(model) == {"default", "other"}
    logits_of(model, some_ids())


def test_what_trains_can_be_set() -> None:
    model = get_peft_model(tiny_model(), tiny_config())
    model.add_adapter("other", tiny_config())
    model.set_requires_grad(adapter_names="other")
    assert trained_adapters(model) == {"default", "other"}
    model.set_requires_grad(adapter_names="default", requires_grad=False)
    assert trained_adapters(model) == {"other"}


def test_two_of_one_module_cannot_be_active_together() -> None:
    model = get_peft_model(tiny_model(), tiny_config(**HEAD))
    model.add_adapter("other", tiny_config(**HEAD))
    with pytest.raises(ValueError, match="Only one adapter can be set at a time"):
        model.base_model.set_adapter(["default", "other"])


def test_a_layer_set_to_an_adapter_goes_on_learning() -> None:
    model = trained_memory()
    layer = next(module for module in model.modules() if isinstance(module, EngramLayer))
    layer.set_adapter("default")
    assert all(parameter.requires_grad for parameter in layer.engram_memory.parameters())


def test_a_memory_has_the_type_of_its_base() -> None:
    model = get_peft_model(tiny_model().to(torch.bfloat16), tiny_config(), autocast_adapter_dtype=False)
    kinds = {parameter.dtype for name, parameter in model.named_parameters() if "engram_" in name}
    assert kinds == {torch.bfloat16}
