"""A device that computes nothing: finds, on a CPU, tensors in the wrong place and values that the host must wait for.

Run as a script it prints, as JSON, what went wrong in each case, or null. It is run in a process of its own, since a
device that torch was told of stays. Tensors on it are shapes (``FakeTensorMode``), so mixing them with tensors on the
CPU, or asking for a value, raises.
"""

from __future__ import annotations

import json
import traceback
from collections.abc import Callable
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

from tests.memory.tiny import on, trained_memory

NAME = "pretended"
MEMORIES: dict[str, dict[str, Any]] = {
    "hashed": {},
    "hard gate, no convolution": {"gate": "hard", "kernel_size": 0},
}


def begin_layer(self: Any, keys: torch.Tensor, values: torch.Tensor) -> None:
    """As ``DynamicLayer.lazy_initialization``, which makes a tensor from a list: nothing can copy that here."""
    self.dtype, self.device = keys.dtype, keys.device
    self.keys, self.values, self.is_initialized = keys[..., :0, :], values[..., :0, :], True


def bring(model: Any) -> Any:
    """Put shapes on the device in place of all weights and buffers."""
    for module in model.modules():
        for tensors in (module._parameters, module._buffers):
            for name, tensor in tensors.items():
                if tensor is not None:
                    there = torch.empty(tensor.shape, dtype=tensor.dtype, device=NAME)
                    learns = isinstance(tensor, torch.nn.Parameter)
                    tensors[name] = torch.nn.Parameter(there, tensor.requires_grad) if learns else there
    return model


def decode(model: Any, ids: torch.Tensor) -> None:
    cache = DynamicCache(config=model.config)
    with torch.no_grad():
        for part in (ids, ids[:, :1], ids[:, :3]):
            model(input_ids=part, **on(model, cache))
        cache.reorder_cache(torch.zeros(2, dtype=torch.long, device=NAME))
        model(input_ids=ids[:, :1], **on(model, cache))


def ways(model: Any, ids: torch.Tensor) -> dict[str, Callable[[], Any]]:
    padded = {"attention_mask": torch.ones_like(ids), "position_ids": torch.zeros_like(ids)}
    return {
        "forward": lambda: model(input_ids=ids, use_cache=False),
        "padded": lambda: model(input_ids=ids, use_cache=False, **padded),
        "decoding": lambda: decode(model, ids),
        "backward": lambda: model(input_ids=ids, labels=ids, use_cache=False).loss.backward(),
    }


def wrong(way: Callable[[], Any]) -> str | None:
    try:
        way()
    except Exception as error:
        lines = [
            str(frame.line) for frame in traceback.extract_tb(error.__traceback__) if "tinyengram" in frame.filename
        ]
        return f"{type(error).__name__}: {str(error)[:200]} at {lines[-2:]}"
    return None


def main() -> None:
    _setup_privateuseone_for_python_backend(NAME)
    DynamicLayer.lazy_initialization = begin_layer
    found: dict[str, str | None] = {}
    for memory, options in MEMORIES.items():
        model = trained_memory(**options)
        with FakeTensorMode():
            bring(model)
            ids = torch.zeros(2, 24, dtype=torch.long, device=NAME)
            for name, way in ways(model, ids).items():
                found[f"{memory}, {name}"] = wrong(way)
            # As where a base was offloaded before a memory was put on it.
            for name, buffer in model.base_model.engram_index.default.named_buffers():
                setattr(model.base_model.engram_index.default, name, torch.zeros(buffer.shape, dtype=buffer.dtype))
            found[f"{memory}, rows found on the host"] = wrong(lambda m=model, ids=ids: m(input_ids=ids))
            # The same checks find what they are to find.
            found[f"{memory}, finds a tensor on the CPU"] = wrong(lambda ids=ids: ids + torch.arange(24))
            found[f"{memory}, finds a value asked for"] = wrong(lambda ids=ids: int(ids.max()))
    print(json.dumps(found))


if __name__ == "__main__":
    main()
