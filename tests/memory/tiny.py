"""Tiny random models of many architectures, and memories trained until their output clearly differs from the base."""

from __future__ import annotations

from typing import Any

import torch
from peft import PeftModel, get_peft_model
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from tinyengram import EngramConfig
from tinyengram.host import cache_argument

VOCABULARY = 97
SIZES = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 256,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "tie_word_embeddings": False,
}
GPT2_SIZES = {"n_embd": 32, "n_layer": 4, "n_head": 4, "n_positions": 256}
ARCHITECTURES: dict[str, dict[str, Any]] = {
    "llama": {},
    "qwen3": {},
    "gemma": {},
    "gpt2": GPT2_SIZES,
    "gpt_neox": {},
    "mistral": {"sliding_window": 16},
    "gemma3_text": {"sliding_window": 16, "layer_types": ["sliding_attention", "full_attention"] * 2},
    "phi3": {},
    "olmo2": {},
    "opt": {"ffn_dim": 48, "word_embed_proj_dim": 32},
}


def tiny_model(model_type: str = "llama", *, seed: int = 0, **changes: Any) -> PreTrainedModel:
    """A random model whose logits spread by about one, so that differences mean something."""
    torch.manual_seed(seed)
    extra = ARCHITECTURES.get(model_type, {})
    sizes = SIZES if model_type != "gpt2" else {k: v for k, v in SIZES.items() if k.endswith(("_id", "vocab_size"))}
    config = AutoConfig.for_model(model_type, **{**sizes, **extra, **changes})
    model = AutoModelForCausalLM.from_config(config, attn_implementation="sdpa").eval()
    with torch.no_grad():
        model.get_output_embeddings().weight.mul_(20)
    return model


def tiny_config(**changes: Any) -> EngramConfig:
    options: dict[str, Any] = {
        "layer_ids": [1, 2],
        "max_ngram_size": 3,
        "engram_vocab_size": [60, 30],
        "n_embed_per_ngram": 16,
        "n_head_per_ngram": 2,
        "task_type": "CAUSAL_LM",
    }
    if changes.get("memory") == "exact":
        options.pop("engram_vocab_size")
    return EngramConfig(**{**options, **changes})


def stir(model: torch.nn.Module, *, rows: bool = True, seed: int = 3) -> None:
    """Give every trainable parameter of a memory large random values, as if long trained."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        if "engram_" in name and parameter.requires_grad and (rows or "tables" not in name):
            with torch.no_grad():
                parameter.add_(torch.randn(parameter.shape, generator=generator).to(parameter))
    for module in model.modules():
        if getattr(module, "unknown_row", None) is not None:
            with torch.no_grad():
                module.tables.weight[module.unknown_row].zero_()


def train_briefly(model: torch.nn.Module, ids: torch.Tensor, *, steps: int = 8, lr: float = 3e-2) -> None:
    """A few optimizer steps of language modelling on ``ids``."""
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=lr)
    model.train()
    for _ in range(steps):
        model(input_ids=ids, labels=ids).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    model.eval()


def trained_memory(model_type: str = "llama", *, seed: int = 0, **options: Any) -> PeftModel:
    """A tiny model with a memory that moves its logits a lot."""
    model = get_peft_model(tiny_model(model_type, seed=seed), tiny_config(**options))
    stir(model)
    return model.eval()


def some_ids(batch: int = 2, length: int = 20, *, seed: int = 0) -> torch.Tensor:
    """Random ids that are no special token."""
    return torch.randint(3, VOCABULARY, (batch, length), generator=torch.Generator().manual_seed(seed))


def on(model: torch.nn.Module, cache: Any) -> dict[str, Any]:
    """The argument that makes a model read on from ``cache``."""
    return {cache_argument(model): cache}


def logits_of(model: torch.nn.Module, ids: torch.Tensor, *, cache: Any = None, **kwargs: Any) -> torch.Tensor:
    if cache is not None:
        kwargs |= on(model, cache)
    with torch.no_grad():
        return model(input_ids=ids, **kwargs).logits


def full(model: torch.nn.Module, ids: torch.Tensor, **kwargs: Any) -> torch.Tensor:
    """Logits of one forward pass without a cache: what every other way is compared with."""
    return logits_of(model, ids, use_cache=False, **kwargs)


def generate(model: Any, prompt: torch.Tensor, **options: Any) -> Any:
    options = {"max_new_tokens": 16, "do_sample": False, "eos_token_id": None, **options}
    return model.generate(input_ids=prompt, attention_mask=torch.ones_like(prompt), **options)


def greedy_by_hand(model: torch.nn.Module, prompt: torch.Tensor, steps: int = 16) -> torch.Tensor:
    """The prompt and the likeliest tokens behind it, each by a forward pass without a cache."""
    text = prompt
    for _ in range(steps):
        text = torch.cat([text, full(model, text)[:, -1:].argmax(-1)], dim=1)
    return text
