"""The base that a memory sits on: what is said of it in an adapter, and which other one is refused."""

from __future__ import annotations

import warnings
from typing import Any

from torch import nn

from tinyengram import host
from tinyengram.memory.config import EngramConfig
from tinyengram.memory.layer import EngramLayer


def describe_base(model: Any, depth: int) -> dict[str, Any]:
    embedding = model.get_input_embeddings()
    config = host.text_config(model)
    return {
        "model_type": config.model_type,
        "num_hidden_layers": depth,
        "hidden_size": getattr(config, "hidden_size", embedding.weight.shape[1]),
        "vocab_size": embedding.weight.shape[0],
    }


def refuse_other_base(stored: dict[str, Any], base: dict[str, Any]) -> None:
    for name, value in stored.items():
        if base.get(name) != value:
            raise ValueError(
                f"The adapter was made for a base with {name}={value!r}, but this one has {base.get(name)!r}. Load "
                "it on the base it was trained on."
            )


def pad_token_of(config: EngramConfig, model: Any) -> int:
    """The configured pad token, else the base's, else its end token, else 0."""
    if config.pad_token_id is not None:
        return config.pad_token_id
    text_config = host.text_config(model)
    for name in ("pad_token_id", "eos_token_id"):
        token = getattr(text_config, name, None)
        token = token[0] if isinstance(token, list) else token
        if token is not None and token >= 0:
            return token
    return 0


def unload_former_memory(model: Any, decoder: nn.Module, tuner: type[Any]) -> None:
    """Free a base from the memory of an earlier PeftModel, as when seeds are tried one after the other on one base."""
    if any(isinstance(module, tuner) for module in model.modules()):
        raise ValueError("The model carries an Engram memory already; add another with add_adapter(name, config).")
    for hook in list(decoder._forward_pre_hooks.values()):
        former = getattr(hook, "__self__", None)
        if isinstance(former, tuner):
            warnings.warn("The base carries the Engram memory of another PeftModel, which is taken off.", stacklevel=2)
            for handle in former._hooks:
                handle.remove()
            for name, module in list(model.named_modules()):
                if isinstance(module, EngramLayer):
                    model.set_submodule(name, module.base_layer)
