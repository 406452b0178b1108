"""What memories did where a text was read: the n-grams that they found, how wide their gates stood, what they added."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast

import torch

from tinyengram.memory.config import EngramConfig
from tinyengram.memory.index import EngramIndex
from tinyengram.memory.layer import EngramLayer, EngramMemory
from tinyengram.memory.model import EngramModel


@dataclass(frozen=True)
class Found:
    """An n-gram that a memory looked up.

    Attributes:
        order: Tokens of it; it ends with the token that was read.
        rows: Of the layer's table.
        trained: How many of these hold anything but zeros.
    """

    order: int
    rows: tuple[int, ...]
    trained: int


@dataclass(frozen=True)
class Spoke:
    """What one memory did at one token.

    Attributes:
        layer: Index of the block before which it stands.
        is_open: False where its latch was shut; nothing is found then.
        gate: 0 (shut) to 1.
        strength: Length of what it added to the residual stream, over the length of the stream.
        found: What it looked up: of an exact memory the known n-grams, of a hashed one all.
    """

    layer: int
    is_open: bool
    gate: float
    strength: float
    found: tuple[Found, ...]


def tuner_of(model: Any) -> EngramModel | None:
    """The part of a PEFT model that puts memories before blocks; None where there is none."""
    return next((module for module in model.modules() if isinstance(module, EngramModel)), None)


def what_memories_did(model: Any, ids: Sequence[int]) -> tuple[list[list[Spoke]], torch.Tensor]:
    """Read one text and note what every active memory did at each token.

    Args:
        model: A PEFT model with Engram memories, in evaluation mode.
        ids: Raw token ids of the text.

    Returns:
        For each token the memories in the order of blocks; and the logits, float32 ``(tokens, vocab)``, which are those
        of any other forward pass: what is noted is asked of the memory itself, beside it.
    """
    noted: list[list[Spoke]] = [[] for _ in ids]
    place = next(model.parameters()).device
    with torch.no_grad(), _noting(model, noted):
        logits = model(input_ids=torch.tensor([list(ids)], device=place), use_cache=False).logits[0]
    return noted, logits.float()


@contextmanager
def _noting(model: Any, noted: list[list[Spoke]]) -> Iterator[None]:
    tuner = tuner_of(model)
    assert tuner is not None
    hooks = []

    def note(memory: Any, args: Any, added: torch.Tensor | None) -> None:
        adapter = args[3][0]
        config = cast(EngramConfig, tuner.peft_config[adapter])
        index = cast(EngramIndex, tuner.engram_index[adapter])
        orders = tuple(index.orders if index.memory == "exact" else config.orders)
        for spokes, spoke in zip(noted, _at_each_token(memory, args, added, orders), strict=True):
            spokes.append(spoke)

    for module in tuner.modules():
        if isinstance(module, EngramLayer):
            hooks += [memory.register_forward_hook(note) for memory in module.engram_memory.values()]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _at_each_token(
    memory: EngramMemory, args: Any, added: torch.Tensor | None, orders: Sequence[int]
) -> Iterator[Spoke]:
    """From what :meth:`EngramMemory.forward` was given, and what it added."""
    hidden, rows, reading, (adapter, layer) = args
    gates = memory.opening(hidden, memory.find(rows, hidden.device))[0, :, 0].tolist()
    strengths = [0.0] * rows.shape[1] if added is None else (added[0].norm(dim=-1) / hidden[0].norm(dim=-1)).tolist()
    opened = reading.opened.get(adapter)
    heads = rows.shape[-1] // len(orders)
    for at in range(rows.shape[1]):
        is_open = opened is None or bool(opened[0, at])
        found = []
        for number, order in enumerate(orders if is_open else ()):
            own = rows[0, at, number * heads : (number + 1) * heads]
            if memory.unknown_row is None or bool((own != memory.unknown_row).all()):
                held = memory.tables.weight[own.to(memory.tables.weight.device)].any(dim=1)
                found.append(Found(order, tuple(own.tolist()), int(held.sum())))
        yield Spoke(layer, is_open, gates[at] if found else 0.0, strengths[at], tuple(found))
