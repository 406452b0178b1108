"""The base that a memory sits on: what is said of it in an adapter, and which other one is refused."""

from __future__ import annotations

import hashlib
import warnings
from typing import Any

import torch
from torch import nn

from tinyengram import host
from tinyengram.memory.config import EngramConfig
from tinyengram.memory.latch import openings_of
from tinyengram.memory.layer import EngramLayer

# Elements of each matrix that the digest of a base's weights looks at.
_SAMPLED = 1024
_MEMORY_MODULES = ("engram_memory", "tables", "key_proj", "value_proj", "key_norm", "query_norm", "conv_norm")


def describe_base(model: Any, blocks: nn.ModuleList) -> dict[str, Any]:
    """What is said of a base in an adapter; ``weights`` only where they can be read (:func:`weights_digest`)."""
    embedding = model.get_input_embeddings()
    config = host.text_config(model)
    said = {
        "model_type": config.model_type,
        "num_hidden_layers": len(blocks),
        "hidden_size": getattr(config, "hidden_size", embedding.weight.shape[1]),
        "vocab_size": embedding.weight.shape[0],
    }
    digest = weights_digest(embedding, blocks)
    return said if digest is None else {**said, "weights": digest}


def weights_digest(embedding: nn.Module, blocks: nn.ModuleList) -> str | None:
    """sha256, in hex, of elements at fixed places of the embedding and of the matrices of three blocks.

    Elements are rounded to bfloat16 first, so that a base has one digest whether it is loaded in float32 or bfloat16.
    What adapters added to the base does not count.

    Returns:
        None where weights are not at hand as they are: on the meta device (offloaded, or no weights yet), quantised,
        sharded, or float16, whose rounding is another.
    """
    chosen = {"": embedding} | {f"{at}.": blocks[at] for at in sorted({0, len(blocks) // 2, len(blocks) - 1})}
    digest = hashlib.sha256()
    for name, tensor in sorted(
        (prefix + name, tensor) for prefix, module in chosen.items() for name, tensor in _own_matrices(module).items()
    ):
        # Sharded and quantised ones are of a type of their own, and may say that they are float32 (torchao).
        plain = type(tensor.detach()) is torch.Tensor and tensor.device.type != "meta" and tensor.numel()
        if not plain or tensor.dtype not in (torch.float64, torch.float32, torch.bfloat16):
            return None
        flat = tensor.detach().reshape(-1)
        n_places = min(len(flat), _SAMPLED)
        # In integers, so that every machine looks at the same places.
        places = torch.arange(n_places) * (len(flat) - 1) // max(1, n_places - 1)
        sample = flat[places.to(flat.device)].to(torch.bfloat16).cpu().contiguous()
        digest.update(f"{name} {tuple(tensor.shape)}".encode())
        digest.update(sample.view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _own_matrices(module: nn.Module) -> dict[str, torch.Tensor]:
    """Parameters of a module with two dimensions or more, by the names they had before any adapter was put on it."""
    added = {
        f"{name}.{part}." if name else f"{part}."
        for name, inner in module.named_modules()
        for part in getattr(inner, "adapter_layer_names", ())
    }
    own: dict[str, torch.Tensor] = {}
    for name, parameter in module.named_parameters():
        if parameter.dim() >= 2 and not name.startswith(tuple(added)):
            own[name.replace("base_layer.", "").replace("original_module.", "")] = parameter
    return own


def refuse_other_base(stored: dict[str, Any], base: dict[str, Any], *, check_weights: bool) -> None:
    """Refuse a base that is not the one which an adapter was made for.

    Raises:
        ValueError: A size differs, or (with ``check_weights``, where both are known) the digest of the weights.
    """
    for name, value in stored.items():
        if name == "weights":
            if check_weights and base.get(name, value) != value:
                raise ValueError(
                    "The adapter was made for a base with other weights than this one's, though of the same shape. "
                    "Load it on the base it was trained on; if you know that it fits this one: "
                    "PeftModel.from_pretrained(base, folder, config=EngramConfig.from_pretrained(folder, "
                    "check_base=False))."
                )
        elif base.get(name) != value:
            resized = " A base whose embedding was resized: load the adapter first, then resize."
            raise ValueError(
                f"The adapter was made for a base with {name}={value!r}, but this one has {base.get(name)!r}. Load "
                f"it on the base it was trained on, or set the config's fingerprint to None for a new memory."
                f"{resized if name == 'vocab_size' else ''}"
            )


def refuse_bare_offload(model: Any, blocks: nn.Module) -> None:
    """Refuse to be put by ``PeftModel.from_pretrained`` on a base that lies partly on disk.

    PEFT takes accelerate's hooks off then, and cannot find the weights of wrapped blocks again to put them back.

    Raises:
        ValueError: Blocks lie on disk and nothing brings them when they are used.
    """
    places = getattr(model, "hf_device_map", None) or {}
    hooked = any(hasattr(module, "_hf_hook") for module in blocks.modules())
    if "disk" in places.values() and not hooked and any(p.device.type == "meta" for p in blocks.parameters()):
        raise ValueError(
            "PeftModel.from_pretrained cannot put an Engram memory on a base that lies partly on disk (device_map with "
            "'disk'): load the base again, then model = get_peft_model(base, EngramConfig.from_pretrained(folder)) and "
            "set_peft_model_state_dict(model, load_peft_weights(folder)), both from peft."
        )


def refuse_modules_of_blocks(config: EngramConfig, model: nn.Module, wrapped: list[str]) -> None:
    """Refuse ``modules_to_save`` that PEFT would miss or take for a part of the memory.

    Blocks that read memory are wrapped, so what lies in them has another name by the time that PEFT looks for it.

    Raises:
        ValueError: A name matches a module inside a wrapped block, or the memory's own modules.
    """
    for wanted in config.modules_to_save or []:
        matched = [name for name, _ in model.named_modules() if name.endswith(wanted)]
        inside = [name for name in matched if name.startswith(tuple(f"{block}." for block in wrapped))]
        if inside:
            raise ValueError(
                f"modules_to_save names {wanted!r}, which matches {inside[0]!r} in a block that reads memory "
                f"(layer_ids={config.layer_ids}); those are wrapped and cannot be saved whole. Name modules outside "
                "these blocks in full, or train the block by a LoRA with the memory on top."
            )
        own = [name for name in _MEMORY_MODULES if name.endswith(wanted)]
        if own:
            outside = f"{matched[0]!r}" if matched else "a module of the base"
            raise ValueError(
                f"modules_to_save names {wanted!r}, which also matches the memory's own {own[0]!r}; write the name in "
                f"full ({outside})."
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


def openings_for(config: EngramConfig, model: Any, vocab_size: int) -> list[list[int]]:
    """The runs of token ids that open a memory with ``open_after``: those of its file, else found anew."""

    def load_tokenizer() -> Any:
        from transformers import AutoTokenizer

        return AutoTokenizer.from_pretrained(config.tokenizer_name_or_path or model.name_or_path)

    stored = config.from_file
    if stored is not None and "open_after" in stored:
        return stored["open_after"]
    return openings_of(config.open_after, vocab_size, load_tokenizer)


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
