"""Recurrent and hybrid models: what was read before rides on their caches too, or they are refused by name."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from peft import get_peft_model
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from tests.memory.tiny import SIZES, logits_of, on, some_ids, stir, tiny_config
from tinyengram import host

MAMBA2 = {"mamba_n_heads": 8, "mamba_d_head": 8, "mamba_n_groups": 1, "mamba_d_state": 8, "mamba_chunk_size": 8}
DELTA = {
    "layer_types": ["linear_attention", "full_attention"] * 2,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 2,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
}
EXPERTS = {"num_experts": 2, "num_experts_per_tok": 1}
RECURRENT: dict[str, dict[str, Any]] = {
    "mamba": {"state_size": 8},
    "falcon_mamba": {"state_size": 8},
    "mamba2": {"num_heads": 8, "head_dim": 8, "n_groups": 1, "state_size": 8, "chunk_size": 8},
}
HYBRID: dict[str, dict[str, Any]] = {
    "falcon_h1": {**MAMBA2, "mamba_d_ssm": 32, "mamba_n_heads": 4},
    "jamba": {**EXPERTS, "attn_layer_period": 2, "attn_layer_offset": 1, "mamba_dt_rank": 4, "mamba_d_state": 8},
    "zamba": {
        "n_mamba_heads": 2,
        "mamba_d_state": 8,
        "mamba_dt_rank": 4,
        "layers_block_type": ["mamba", "hybrid"] * 2,
        "attention_hidden_size": 64,
        "attention_head_dim": 16,
    },
    "zamba2": {
        "n_mamba_heads": 8,
        "mamba_headdim": 8,
        "mamba_ngroups": 1,
        "mamba_d_state": 8,
        "chunk_size": 8,
        "layers_block_type": ["mamba", "hybrid"] * 2,
        "num_mem_blocks": 1,
    },
    "granitemoehybrid": {
        **MAMBA2,
        "layer_types": ["mamba", "attention"] * 2,
        "num_local_experts": 2,
        "num_experts_per_tok": 1,
        "shared_intermediate_size": 16,
    },
    "nemotron_h": {
        "layers_block_type": ["mamba", "attention", "mamba", "mlp"],
        "mamba_num_heads": 8,
        "mamba_head_dim": 8,
        "n_groups": 1,
        "ssm_state_size": 8,
        "chunk_size": 8,
    },
    "bamba": {**MAMBA2, "attn_layer_indices": [1, 3]},
    "qwen3_next": {
        **DELTA,
        **EXPERTS,
        "moe_intermediate_size": 16,
        "shared_expert_intermediate_size": 16,
        "decoder_sparse_step": 1,
    },
    "qwen3_5_text": DELTA,
    "olmo_hybrid": DELTA,
    "lfm2": {"layer_types": ["conv", "full_attention"] * 2, "conv_L_cache": 3},
}


def recurrent_model(model_type: str, **options: Any) -> PreTrainedModel:
    torch.manual_seed(0)
    try:
        config = AutoConfig.for_model(model_type, **{**SIZES, **options})
    except ValueError as error:
        pytest.skip(f"not in this transformers: {error}")
    return AutoModelForCausalLM.from_config(config).eval()


def in_parts(model: torch.nn.Module, ids: torch.Tensor, sizes: list[int]) -> torch.Tensor:
    """Logits of ``ids`` read in chunks on the model's own cache."""
    parts: list[torch.Tensor] = []
    given: dict[str, Any] = {}
    with torch.no_grad():
        for chunk in ids.split(sizes, dim=1):
            output = model(input_ids=chunk, use_cache=True, **given)
            given = on(model, host.cache_of(output))
            parts.append(output.logits)
    return torch.cat(parts, dim=1)


@pytest.fixture(params=sorted(RECURRENT | HYBRID))
def base(request: pytest.FixtureRequest) -> PreTrainedModel:
    model = recurrent_model(request.param, **(RECURRENT | HYBRID)[request.param])
    if host.CACHE_NAMES[0] not in host.forward_arguments(model):
        pytest.skip("state in caches of many kinds before transformers 5.24")
    return model


def test_blocks_are_found(base: PreTrainedModel) -> None:
    decoder, blocks = host.find_blocks(base)
    assert len(base.get_submodule(blocks)) == 4
    assert host.takes_argument(base.get_submodule(decoder), "input_ids")


def test_cached_text_is_as_uncached(base: PreTrainedModel) -> None:
    ids = some_ids(2, 14)
    plain = logits_of(base, ids, use_cache=False)
    noise = (in_parts(base, ids, [8, *[1] * 6]) - plain).abs().max()
    model = get_peft_model(base, tiny_config())
    assert torch.equal(logits_of(model, ids, use_cache=False), plain)
    stir(model)
    model.eval()
    whole = logits_of(model, ids, use_cache=False)
    assert (whole - plain).abs().max() > 0.3
    torch.testing.assert_close(in_parts(model, ids, [8, *[1] * 6]), whole, atol=1e-5 + 3 * float(noise), rtol=0)


@pytest.mark.parametrize("options", [{}, {"num_beams": 3}])
def test_generating_with_a_cache_is_as_without(base: PreTrainedModel, options: dict[str, Any]) -> None:
    model, ids = get_peft_model(base, tiny_config()), some_ids(2, 12)
    stir(model)
    model.eval()
    mask = torch.ones_like(ids)
    mask[0, :4] = 0
    options = {**options, "attention_mask": mask, "max_new_tokens": 6, "do_sample": False, "eos_token_id": None}
    wanted = model.generate(input_ids=ids, use_cache=False, **options)
    assert torch.equal(model.generate(input_ids=ids, **options), wanted)


@pytest.mark.parametrize(
    ("model_type", "options"),
    [
        ("recurrent_gemma", {"block_types": ["recurrent", "attention"], "lru_width": 32, "num_key_value_heads": 1}),
        ("minimax", {"layer_types": ["linear_attention", "full_attention"] * 2, "num_local_experts": 2}),
        ("xlstm", {"num_blocks": 4, "num_heads": 2}),
    ],
)
def test_state_that_a_memory_cannot_follow_is_refused(model_type: str, options: dict[str, Any]) -> None:
    model = recurrent_model(model_type, **options)
    with pytest.raises(ValueError, match=r"so a memory cannot follow it|takes no key-value cache"):
        get_peft_model(model, tiny_config())
