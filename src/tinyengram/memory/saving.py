"""An adapter's tensors on their way to a file and back: only trained rows, and checked whole before one is used."""

from __future__ import annotations

import hashlib
from typing import Any, cast

import torch

from tinyengram.memory.config import EngramConfig
from tinyengram.memory.exchange import Shard
from tinyengram.memory.tables import zeros

_CHECKSUM = "engram_index.checksum"
# A table is saved as (row numbers, rows) when that is the smaller way.
_ROWS, _VALUES = ".trained_rows", ".trained_values"
_CHANGED = (
    "a file is damaged, or adapter_config.json was changed after saving or belongs to another adapter. Fetch or save "
    "it again; nothing was loaded."
)


def without_adapter_name(key: str, adapter_name: str) -> str:
    """A tensor's name as it is in a file, which does not know what the adapter was called."""
    for container in ("engram_memory", "engram_index"):
        key = key.replace(f"{container}.{adapter_name}.", f"{container}.")
    return key


def to_file(
    chosen: dict[str, torch.Tensor], state_dict: dict[str, torch.Tensor], config: EngramConfig, adapter_name: str
) -> dict[str, torch.Tensor]:
    """What a file holds of an adapter: trained rows instead of tables where that is smaller, and a checksum.

    Args:
        chosen: The adapter's own tensors, by their names in the model.
        state_dict: All of the model's, for the modules that are saved whole.
        config: The memory's options, which the checksum covers.
        adapter_name: What the adapter is called in the model.

    Raises:
        ValueError: Weights of the memory are offloaded.
    """
    if any(tensor.device.type == "meta" for key, tensor in chosen.items() if _is_ours(key)):
        raise ValueError(
            "The memory's weights are offloaded, so that they cannot be saved as they are. Give them: "
            "save_pretrained(folder, state_dict=get_state_dict_offloaded_model(model)), from "
            "accelerate.utils.modeling."
        )
    saved: dict[str, torch.Tensor] = {}
    for key, tensor in chosen.items():
        if not _is_ours(key):  # Of a LoRA below that goes by the same name.
            continue
        if tensor.is_sparse:  # Gathered from the ranks that hold it.
            if len(tensor.values()) * 2 < len(tensor):
                saved[key + _ROWS], saved[key + _VALUES] = tensor.indices()[0], tensor.values()
            else:
                saved[key] = tensor.to_dense()
            continue
        rows = tensor.any(dim=1).nonzero().flatten() if key.endswith(".tables.weight") else None
        if rows is not None and len(rows) * 2 < len(tensor):
            saved[key + _ROWS], saved[key + _VALUES] = rows, tensor[rows]
        else:
            saved[key] = tensor
    plain = {without_adapter_name(key, adapter_name): tensor for key, tensor in saved.items()}
    index_key = next(key for key in saved if f"engram_index.{adapter_name}." in key)
    container = index_key.split(f"engram_index.{adapter_name}.")[0]
    plain |= _modules_saved_whole(state_dict, adapter_name)
    saved[f"{container}engram_index.{adapter_name}.checksum"] = _checksum(plain, config.identities()[0])
    return saved


def from_file(
    state_dict: dict[str, torch.Tensor],
    present: dict[str, torch.Tensor],
    config: EngramConfig,
    adapter_name: str,
    shards: dict[str, Shard],
) -> dict[str, torch.Tensor]:
    """Check an adapter whole before a weight is used, and put its tables back to full size.

    Args:
        state_dict: What the file holds.
        present: The model's tensors, by their names there.
        config: The memory's options.
        adapter_name: What the adapter is called in the model.
        shards: Which rows this process holds of tables that lie on ranks, by their names in the model.

    Raises:
        ValueError: Anything is missing, damaged, or not what the options say.
    """
    ours = {key: value for key, value in state_dict.items() if _is_ours(key)}
    checksum = [key for key in ours if key.endswith(_CHECKSUM)]
    stated = ours.pop(checksum[0]).cpu() if checksum else None
    if stated is None and config.check_tensors:
        raise ValueError("The adapter file holds no Engram checksum: it is damaged, or not an Engram adapter.")
    covered = {**ours, **_modules_saved_whole(state_dict, adapter_name)}
    intact = not config.check_tensors or any(
        torch.equal(cast(torch.Tensor, stated), _checksum(covered, identity)) for identity in config.identities()
    )
    wanted = {
        without_adapter_name(key, adapter_name): (key, tensor)
        for key, tensor in present.items()
        if f".engram_memory.{adapter_name}." in key or f"engram_index.{adapter_name}." in key
    }
    full = dict(ours)
    for key in [key for key in ours if key.endswith(_ROWS)]:
        name = key.removesuffix(_ROWS)
        rows, values = full.pop(key), full.pop(name + _VALUES)
        if name in wanted:
            like = wanted[name][1]
            if rows.dtype != torch.int64:
                raise ValueError(f"{key} is {rows.dtype}: it holds row numbers, which cannot be scaled or averaged.")
            shard = shards.get(wanted[name][0])
            limit = len(like) if shard is None else shard.n_rows
            if values.shape[1:] != like.shape[1:] or not bool(((rows >= 0) & (rows < limit)).all()):
                raise ValueError(f"{name} was saved for another size of table; {_CHANGED}")
            if shard is not None:
                rows, values = shard.own(rows, values)
            table = zeros(*like.shape, on_host=values.device.type == "cpu", dtype=values.dtype).to(values.device)
            full[name] = table.index_copy_(0, rows.to(values.device), values)
    for name, (key, _) in wanted.items():
        # A file that holds the table whole.
        if (shard := shards.get(key)) is not None and name in ours and len(ours[name]) == shard.n_rows:
            full[name] = ours[name][shard.rank :: shard.ranks].clone()
    missing, unexpected = sorted(wanted.keys() - full.keys()), sorted(full.keys() - wanted.keys())
    if missing or unexpected:
        raise ValueError(f"The adapter lacks {missing[:3]} and has unexpected {unexpected[:3]}; {_CHANGED}")
    for name, (_, like) in wanted.items():
        if full[name].shape != like.shape:
            raise ValueError(
                f"{name} has shape {tuple(full[name].shape)} in the file, {tuple(like.shape)} by its options; "
                f"{_CHANGED}"
            )
        if name.endswith(("engram_index.multipliers", "engram_index.sizes")) and not torch.equal(
            full[name].cpu(), like.cpu()
        ):
            raise ValueError(f"{name} is not what the options give (seed, layers or sizes); {_CHANGED}")
    if not intact:
        raise ValueError(
            f"The adapter's checksum is not that of its tensors and options; {_CHANGED} If you edited the tensors "
            "yourself, say so by check_tensors=False in the config."
        )
    loaded = {wanted[name][0]: tensor for name, tensor in full.items()}
    return {
        **{key: value for key, value in state_dict.items() if key not in ours and key not in checksum},
        **loaded,
    }


def _modules_saved_whole(state_dict: dict[str, torch.Tensor], adapter_name: str) -> dict[str, torch.Tensor]:
    """Weights of an adapter's ``modules_to_save``, by names without the adapter's."""
    part = f".modules_to_save.{adapter_name}."
    return {key.replace(part, "."): tensor for key, tensor in state_dict.items() if part in key}


def _is_ours(key: str) -> bool:
    return ".engram_memory." in key or "engram_index." in key


def _checksum(tensors: dict[str, torch.Tensor], identity: str) -> torch.Tensor:
    """sha256 over options, names, types, shapes and bytes, as uint8 ``(32,)``."""
    digest = hashlib.sha256(identity.encode())
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.flatten().view(torch.uint8).numpy().data)
    return torch.frombuffer(bytearray(digest.digest()), dtype=torch.uint8)


def check_fingerprint(stored: dict[str, Any], config: EngramConfig) -> None:
    """Refuse a stored fingerprint that lacks what the options need."""
    wanted = {"base", "compressed_vocab_size"}
    wanted |= {"map_size"} if config.tokenizer_name_or_path is not None else set()
    wanted |= {"n_ngrams", "ngram_orders"} if config.memory == "exact" else set()
    if missing := sorted(wanted - stored.keys()):
        raise ValueError(f"The fingerprint lacks {missing}; {_CHANGED}")
