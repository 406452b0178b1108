"""Methods that put virtual tokens before a text: prompt tuning, P-tuning, prefix tuning, cartridges, CPT.

A PEFT model of such a method reads a text with its virtual tokens in front, so its logits may be longer than the text,
and it puts them in front again at every call, also where a cache holds them already: PEFT 0.21 generates other texts
with a cache than without on transformers 5.24, whose argument for the cache has a new name. Here the virtual tokens are
read into a cache once; what comes after is read by the base on top of it, as after any other beginning.
"""

from __future__ import annotations

from typing import Any

import torch

from tinyengram import host


def count_virtual_tokens(model: Any) -> int:
    """How many virtual tokens a model puts before a text; 0 for a base and for methods that put none."""
    config: Any = getattr(model, "active_peft_config", None)
    return int(config.num_virtual_tokens) if getattr(config, "is_prompt_learning", False) else 0


def takes_positions(model: Any) -> bool:
    """Whether a model can be asked for the logits at some places of a text alone (``logits_to_keep``).

    Not where virtual tokens stand before the text: there places are counted from another beginning.
    """
    return not count_virtual_tokens(model) and host.takes_argument(model, "logits_to_keep")


def without_virtual(logits: torch.Tensor, length: int) -> torch.Tensor:
    """Logits at a text's own ``length`` places, which stand last: ``(batch, virtual + length, vocab)`` cut in front."""
    return logits[:, logits.shape[1] - length :]


def start_cache(model: Any, rows: int) -> tuple[Any, Any]:
    """What a text is read with, piece by piece: the model that reads, and the cache that it continues.

    Args:
        model: A causal language model, with or without an adapter.
        rows: Texts that are read together.

    Returns:
        ``(reader, cache)``: of a method with virtual tokens its base and a cache that holds them, else the model itself
        and an empty cache.
    """
    if not count_virtual_tokens(model):
        return model, host.empty_cache(model)
    reader = model.get_base_model()
    prompt = model.get_prompt(rows)
    if not isinstance(prompt, torch.Tensor):  # Prefix tuning and cartridges: keys and values.
        return reader, prompt
    cache = host.empty_cache(reader)
    prompt = prompt.to(reader.get_input_embeddings().weight.dtype)
    reader(inputs_embeds=prompt, use_cache=True, **{host.cache_argument(reader): cache})
    return reader, cache


def for_generation(
    model: Any, input_ids: torch.Tensor, attention_mask: torch.Tensor
) -> tuple[Any, dict[str, torch.Tensor]]:
    """The model whose ``generate`` is to be called, and the arguments that carry the prompts.

    Args:
        model: As for :func:`start_cache`.
        input_ids: int64 ``(batch, length)``, padded on the left.
        attention_mask: int64 ``(batch, length)``.

    Returns:
        ``(generator, arguments)``; new tokens stand behind ``arguments["input_ids"]``, which is longer than the prompts
        by the virtual tokens.
    """
    rows, virtual = len(input_ids), count_virtual_tokens(model)
    inputs: dict[str, Any] = {"input_ids": input_ids, "attention_mask": attention_mask}
    if not virtual:
        return model, inputs
    reader, cache = start_cache(model, rows)
    # Which tokens stand for the virtual ones does not matter: the cache holds them, so they are not read.
    held = input_ids[:, -1:].expand(rows, virtual)
    inputs = {
        "input_ids": torch.cat([held, input_ids], dim=1),
        "attention_mask": torch.cat([torch.ones_like(held), attention_mask], dim=1),
        host.cache_argument(reader): cache,
    }
    return reader, inputs
