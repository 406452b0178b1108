"""How memory is trained: its tables learn faster than its projections and are never decayed."""

from __future__ import annotations

from typing import Any

from torch import nn

from tinyengram.memory.layer import EngramMemory

TABLE_LEARNING_RATE_FACTOR = 5.0
"""Learning rate of tables over that of everything else (arXiv 2601.07372, section 4.1)."""


def parameter_groups(
    model: nn.Module,
    learning_rate: float,
    weight_decay: float = 0.0,
    table_learning_rate_factor: float = TABLE_LEARNING_RATE_FACTOR,
) -> list[dict[str, Any]]:
    """Optimizer groups of a model's trainable parameters, for any PEFT method and with what Engram tables need.

    Args:
        model: The model, after ``get_peft_model``.
        learning_rate: Of everything but tables.
        weight_decay: Of matrices that are not tables; vectors (norms, convolution taps, biases) are never decayed.
        table_learning_rate_factor: Learning rate of Engram tables over ``learning_rate``.

    Returns:
        Groups with ``params``, ``lr`` and ``weight_decay``; empty ones are left out.

    Example:
        >>> optimizer = torch.optim.AdamW(parameter_groups(model, 1e-3))  # doctest: +SKIP
    """
    memories = [module for module in model.modules() if isinstance(module, EngramMemory)]
    tables = {id(memory.tables) for memory in memories}
    undecayed = {id(memory.conv_weight) for memory in memories if memory.kernel_size}
    groups: list[dict[str, Any]] = [
        {"params": [], "lr": learning_rate, "weight_decay": weight_decay},
        {"params": [], "lr": learning_rate, "weight_decay": 0.0},
        {"params": [], "lr": learning_rate * table_learning_rate_factor, "weight_decay": 0.0},
    ]
    for parameter in model.parameters():
        if not parameter.requires_grad:
            continue
        if id(parameter) in tables:
            group = groups[2]
        elif parameter.dim() < 2 or id(parameter) in undecayed:
            group = groups[1]
        else:
            group = groups[0]
        group["params"].append(parameter)
    return [group for group in groups if group["params"]]
