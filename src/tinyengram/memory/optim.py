"""How memory is trained: tables learn faster than projections, are never decayed, and cost what touched rows cost.

``transformers.Trainer`` and all that is made of it (TRL) do so by themselves, by way of :func:`for_trainer`; for a loop
of one's own there is :func:`row_sparse_adamw`. The gradient and the optimizer's state of a table then hold only the
rows that were read, so a step and its memory do not grow with the table.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from tinyengram import host, processes
from tinyengram.errors import TinyEngramError
from tinyengram.memory.adamw import RowSparseAdamW, teach_norm_of_sparse_gradients
from tinyengram.memory.exchange import gather_tables, sharded
from tinyengram.memory.layer import EngramMemory

logger = logging.getLogger(__name__)
# By these Trainer is told of groups that an optimizer makes itself (GaLore, APOLLO, LOMO).
_OWN_GROUPS = {"params", "model", "optimizer_dict"}


def parameter_groups(
    model: nn.Module,
    learning_rate: float,
    weight_decay: float = 0.0,
    table_learning_rate_factor: float | None = None,
) -> list[dict[str, Any]]:
    """Optimizer groups of a model's trainable parameters, for any PEFT method and with what Engram tables need.

    Args:
        model: The model, after ``get_peft_model``.
        learning_rate: Of everything but tables.
        weight_decay: Of matrices that are not tables; vectors (norms, convolution taps, biases) are never decayed.
        table_learning_rate_factor: Learning rate of Engram tables over ``learning_rate``; ``None`` takes each memory's
            own, from its config.

    Returns:
        Groups with ``params``, ``lr`` and ``weight_decay``, those of tables with ``by_rows`` for
        :class:`~tinyengram.memory.adamw.RowSparseAdamW`; empty ones are left out.

    Example:
        >>> optimizer = torch.optim.AdamW(parameter_groups(model, 1e-3))  # doctest: +SKIP
    """
    memories = list(_memories(model))
    factors = {id(memory.tables.weight): memory.table_learning_rate_factor for memory in memories}
    undecayed = {id(memory.conv_weight) for memory in memories if memory.kernel_size}
    matrices: list[nn.Parameter] = []
    vectors: list[nn.Parameter] = []
    tables: dict[float, list[nn.Parameter]] = {}
    for parameter in model.parameters():
        if not parameter.requires_grad:
            continue
        if id(parameter) in factors:
            factor = table_learning_rate_factor or factors[id(parameter)]
            tables.setdefault(factor, []).append(parameter)
        elif parameter.dim() < 2 or id(parameter) in undecayed:
            vectors.append(parameter)
        else:
            matrices.append(parameter)
    groups: list[dict[str, Any]] = [
        {"params": matrices, "lr": learning_rate, "weight_decay": weight_decay},
        {"params": vectors, "lr": learning_rate, "weight_decay": 0.0},
    ]
    for factor, params in tables.items():
        groups.append({"params": params, "lr": learning_rate * factor, "weight_decay": 0.0, "by_rows": True})
    return [group for group in groups if group["params"]]


def row_sparse_adamw(
    model: nn.Module,
    learning_rate: float,
    *,
    weight_decay: float = 0.0,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8,
    table_learning_rate_factor: float | None = None,
) -> RowSparseAdamW:
    """AdamW for a model with Engram memories, with gradients of tables that hold only the rows that were read.

    PyTorch cannot measure such gradients, so it is taught to: ``clip_grad_norm_`` then works. Where processes cannot
    exchange them (NCCL), gradients stay dense, and rows whose gradient is not zero are stepped.

    Args:
        model: The model, after ``get_peft_model``; the tables of its memories give sparse gradients from now on.
        learning_rate, weight_decay, table_learning_rate_factor: See :func:`parameter_groups`.
        betas, eps: As in ``torch.optim.AdamW``.

    Example:
        >>> optimizer = row_sparse_adamw(model, 1e-3)  # doctest: +SKIP
        >>> loss.backward(); optimizer.step(); optimizer.zero_grad()  # doctest: +SKIP
    """
    _give_sparse_gradients(model, True)
    groups = parameter_groups(model, learning_rate, weight_decay, table_learning_rate_factor)
    return RowSparseAdamW(groups, lr=learning_rate, betas=betas, eps=eps)


def dense_adamw(
    model: nn.Module,
    learning_rate: float,
    *,
    weight_decay: float = 0.0,
    betas: tuple[float, float] = (0.9, 0.999),
    table_learning_rate_factor: float | None = None,
) -> torch.optim.AdamW:
    """``torch.optim.AdamW`` with groups, for engines that cut parameters otherwise than by rows (DeepSpeed).

    Args:
        model, learning_rate, weight_decay, betas, table_learning_rate_factor: As of :func:`row_sparse_adamw`.
    """
    _give_sparse_gradients(model, False)
    groups = parameter_groups(model, learning_rate, weight_decay, table_learning_rate_factor)
    return torch.optim.AdamW(groups, lr=learning_rate, betas=betas)


def for_trainer(model: Any, arguments: Any, optimizer: Any, options: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """What ``transformers.Trainer`` makes its optimizer from, for a model with a memory that is trained.

    ``torch.optim.AdamW``, the default, becomes :class:`~tinyengram.memory.adamw.RowSparseAdamW`, unless parameters are
    sharded otherwise than by rows (FSDP1, DeepSpeed); it and every other optimizer get :func:`parameter_groups`. An
    optimizer that makes groups of its own is left as it is, with a warning. Whatever trains no memory is left as it is.

    Args:
        model: The model to be trained, or None.
        arguments: ``TrainingArguments``.
        optimizer: The class that ``arguments.optim`` names, or a function that makes an optimizer.
        options: Its keyword arguments.

    Returns:
        Class or function, and keyword arguments; groups stand among them as ``params``, where Trainer looks for them.
    """
    if model is None or not any(p.requires_grad for memory in _memories(model) for p in memory.parameters()):
        return optimizer, options
    on_ranks = bool(sharded(model))
    if on_ranks and not processes.keeps_parameters_whole(arguments):
        raise TinyEngramError(
            "tables_on='ranks' cuts tables itself and does not go with FSDP or DeepSpeed; train without them, or take "
            "tables_on='device'."
        )
    if on_ranks and optimizer is not torch.optim.AdamW:
        name = getattr(arguments.optim, "value", arguments.optim)
        raise TinyEngramError(f"optim={name!s} cannot step tables on ranks by rows; take optim='adamw_torch'.")
    by_rows = optimizer is torch.optim.AdamW and processes.steps_by_rows(arguments)
    _give_sparse_gradients(model, by_rows)
    if not isinstance(optimizer, type) or _OWN_GROUPS & options.keys():
        logger.warning(
            "optim=%s makes groups of parameters of its own, so tables of the Engram memory learn at the rate of "
            "everything else. For their own, take optim='adamw_torch'.",
            getattr(arguments.optim, "value", arguments.optim),
        )
        return optimizer, options
    rate = options.get("lr", arguments.learning_rate)
    groups = parameter_groups(model, rate, arguments.weight_decay)
    options = {**options, "params": groups}
    if by_rows:
        optimizer = RowSparseAdamW
        options.pop("fused", None)  # It would leave the scaling of float16 gradients to this optimizer.
    table_rates = [f"{group['lr']:g}" for group in groups if "by_rows" in group]
    logger.info(
        "%s trains the Engram memory: its tables at a learning rate of %s, everything else at %g.",
        optimizer.__name__,
        ", ".join(table_rates) or "0, since they are frozen",
        rate,
    )
    return optimizer, options


def _memories(model: nn.Module) -> Iterable[EngramMemory]:
    return (module for module in model.modules() if isinstance(module, EngramMemory))


def _give_sparse_gradients(model: nn.Module, by_rows: bool) -> None:
    sparse = by_rows and processes.exchanges_sparse_gradients()
    if sharded(model):
        host.before_saving(gather_tables)
    if sparse or sharded(model):  # What lies on ranks always has them: nobody but its owner adds them up.
        teach_norm_of_sparse_gradients()
    for memory in _memories(model):
        memory.tables.sparse = sparse
