"""Memories on decoders with a head that classifies, which PEFT trains and saves along, and on what is no decoder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel, get_peft_model
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForQuestionAnswering,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
)

from tests.memory.tiny import SIZES, some_ids, stir, tiny_config, tiny_model
from tinyengram import EngramConfig

HEADS = {
    "SEQ_CLS": AutoModelForSequenceClassification,
    "TOKEN_CLS": AutoModelForTokenClassification,
    "QUESTION_ANS": AutoModelForQuestionAnswering,
}


def with_head(task: str) -> Any:
    torch.manual_seed(0)
    return HEADS[task].from_config(AutoConfig.for_model("llama", **SIZES)).eval()


def output_of(model: Any, ids: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return model(input_ids=ids)[0]


@pytest.mark.parametrize("task", HEADS)
def test_memory_and_head_are_trained_and_saved(task: str, tmp_path: Path) -> None:
    ids = some_ids()
    model = get_peft_model(with_head(task), tiny_config(task_type=task)).eval()
    heads = [parameter for name, parameter in model.named_parameters() if ".modules_to_save." in name]
    assert heads
    assert all(parameter.requires_grad for parameter in heads)
    stir(model)
    with torch.no_grad():
        for parameter in heads:
            parameter.add_(1.0)
    model.save_pretrained(tmp_path)
    again = PeftModel.from_pretrained(with_head(task), tmp_path)
    assert torch.equal(output_of(again, ids), output_of(model, ids))
    assert not torch.equal(output_of(again, ids), output_of(with_head(task), ids))


@pytest.mark.parametrize("task", HEADS)
def test_one_config_for_two_adapters_with_heads_of_their_own(task: str) -> None:
    config, ids = tiny_config(task_type=task), some_ids()
    model = get_peft_model(with_head(task), config).eval()
    model.add_adapter("other", config)
    first = output_of(model, ids)
    model.set_adapter("other")
    stir(model)
    assert not torch.equal(output_of(model, ids), first)
    model.set_adapter("default")
    assert torch.equal(output_of(model, ids), first)


class TestOtherModels:
    @pytest.mark.parametrize("config", [None, {"hidden_size": 4}])
    def test_a_module_that_counts_no_blocks(self, config: Any) -> None:
        model = nn.Sequential(nn.Linear(4, 4))
        if config is not None:
            model.config = config
        with pytest.raises(ValueError, match=r"Sequential has no config that counts its blocks.*decoder-only"):
            get_peft_model(model, tiny_config())

    @pytest.mark.parametrize("name", ["target_modules", "exclude_modules", "layers_to_transform", "layers_pattern"])
    def test_places_of_another_method(self, name: str) -> None:
        with pytest.raises(TypeError, match=rf"'{name}' is no option of Engram .*name them with layer_ids"):
            EngramConfig(**{name: ["q_proj"]})

    def test_a_file_that_is_no_adapters_config(self, tmp_path: Path) -> None:
        (tmp_path / "adapter_config.json").write_text(json.dumps({"foo": "bar"}))
        with pytest.raises(TypeError, match=r"EngramConfig config .* is missing required keys: {'peft_type'}"):
            EngramConfig.from_pretrained(tmp_path)

    def test_a_memory_on_the_decoder_alone(self, tmp_path: Path) -> None:
        model, ids = get_peft_model(tiny_model().model, tiny_config(task_type="FEATURE_EXTRACTION")), some_ids()
        stir(model)
        model.save_pretrained(tmp_path)
        again = PeftModel.from_pretrained(tiny_model().model, tmp_path)
        assert torch.equal(output_of(again, ids), output_of(model, ids))
        assert not torch.equal(output_of(again, ids), output_of(tiny_model().model, ids))
