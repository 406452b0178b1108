"""Virtual tokens are read once, into a cache, and all that follows is what PEFT's own reading of the whole says."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from peft import CartridgeConfig, CPTConfig, LoraConfig, PrefixTuningConfig, PromptEncoderConfig, PromptTuningConfig
from peft import get_peft_model as put_on

from tests.memory.tiny import tiny_model
from tinyengram import host
from tinyengram.virtual_tokens import (
    count_virtual_tokens,
    for_generation,
    start_cache,
    takes_positions,
    without_virtual,
)

TASK = {"task_type": "CAUSAL_LM"}
CONFIGS = {
    "prompt_tuning": PromptTuningConfig(num_virtual_tokens=3, **TASK),
    "p_tuning": PromptEncoderConfig(num_virtual_tokens=3, encoder_hidden_size=16, **TASK),
    "prefix_tuning": PrefixTuningConfig(num_virtual_tokens=3, **TASK),
    "cartridge": CartridgeConfig(num_virtual_tokens=3, **TASK),
    "cpt": CPTConfig(cpt_token_ids=[5, 6, 7, 8], cpt_tokens_type_mask=[1, 2, 3, 4], **TASK),
}
IDS = torch.tensor([[5, 9, 12, 40, 33, 8, 21], [7, 7, 30, 11, 52, 60, 3]])


def adapted(method: str, model_type: str = "llama") -> Any:
    model = put_on(tiny_model(model_type), copy.deepcopy(CONFIGS[method])).eval()  # PEFT fills in sizes of the base.
    generator = torch.Generator().manual_seed(1)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data.add_(torch.randn(parameter.shape, generator=generator))
    return model


def whole(model: Any, ids: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return without_virtual(model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits, ids.shape[1])


@pytest.mark.parametrize("model_type", ["llama", "gpt2", "mistral"])
@pytest.mark.parametrize("method", CONFIGS)
def test_pieces_on_a_cache_are_the_whole(method: str, model_type: str) -> None:
    model = adapted(method, model_type)
    reader, cache = start_cache(model, len(IDS))
    assert cache.get_seq_length() == count_virtual_tokens(model) == (4 if method == "cpt" else 3)
    pieces = []
    with torch.no_grad():
        for piece in IDS.split(3, dim=1):
            pieces.append(reader(input_ids=piece, use_cache=True, **{host.cache_argument(reader): cache}).logits)
    assert torch.allclose(torch.cat(pieces, dim=1), whole(model, IDS), atol=1e-3)
    with model.disable_adapter(), torch.no_grad():
        off = model(input_ids=IDS).logits
    assert not torch.allclose(off, whole(model, IDS), atol=0.1)


@pytest.mark.parametrize("method", CONFIGS)
def test_generation_is_what_is_read_whole(method: str) -> None:
    model = adapted(method)
    wanted = IDS
    for _ in range(5):
        wanted = torch.cat([wanted, whole(model, wanted)[:, -1:].argmax(-1)], dim=1)
    padded = torch.cat([torch.zeros(2, 2, dtype=torch.long), IDS], dim=1)
    mask = torch.cat([torch.zeros(2, 2, dtype=torch.long), torch.ones_like(IDS)], dim=1)
    for ids, attention in ((IDS, torch.ones_like(IDS)), (padded, mask)):
        generator, inputs = for_generation(model, ids, attention)
        with torch.no_grad():
            found = generator.generate(**inputs, max_new_tokens=5, min_new_tokens=5, do_sample=False, pad_token_id=0)
        assert torch.equal(found[:, inputs["input_ids"].shape[1] :], wanted[:, IDS.shape[1] :])


def test_other_models_begin_with_nothing() -> None:
    model = put_on(tiny_model(), LoraConfig(**TASK))
    for one in (tiny_model(), model):
        assert count_virtual_tokens(one) == 0
        assert takes_positions(one)
    assert not takes_positions(adapted("prompt_tuning"))
    reader, cache = start_cache(model, 2)
    assert reader is model
    assert cache.get_seq_length() == 0
    generator, inputs = for_generation(model, IDS, torch.ones_like(IDS))
    assert generator is model
    assert inputs.keys() == {"input_ids", "attention_mask"}
