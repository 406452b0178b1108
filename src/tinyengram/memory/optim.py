"""How memory is trained: tables learn faster than projections, are never decayed, and cost what touched rows cost.

With :func:`row_sparse_adamw` the gradient and the optimizer's state of a table hold only the rows that were read, so a
step and its memory do not grow with the table.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
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
    tables = {id(memory.tables.weight) for memory in memories}
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


def row_sparse_adamw(
    model: nn.Module,
    learning_rate: float,
    *,
    weight_decay: float = 0.0,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8,
    table_learning_rate_factor: float = TABLE_LEARNING_RATE_FACTOR,
) -> RowSparseAdamW:
    """AdamW for a model with Engram memories, with gradients of tables that hold only the rows that were read.

    PyTorch cannot measure such gradients, so it is taught to: ``clip_grad_norm_``, and with it ``Trainer``, then work.

    Args:
        model: The model, after ``get_peft_model``; the tables of its memories give sparse gradients from now on.
        learning_rate, weight_decay, table_learning_rate_factor: See :func:`parameter_groups`.
        betas, eps: As in ``torch.optim.AdamW``.

    Example:
        >>> optimizer = row_sparse_adamw(model, 1e-3)  # doctest: +SKIP
        >>> Trainer(model, arguments, optimizers=(optimizer, None))  # doctest: +SKIP
    """
    teach_norm_of_sparse_gradients()
    for module in model.modules():
        if isinstance(module, EngramMemory):
            module.tables.sparse = True
    groups = parameter_groups(model, learning_rate, weight_decay, table_learning_rate_factor)
    return RowSparseAdamW(groups, lr=learning_rate, betas=betas, eps=eps)


class RowSparseAdamW(torch.optim.AdamW):
    """AdamW (Loshchilov and Hutter, arXiv 1711.05101) that also takes sparse gradients, row by row.

    A row of a parameter with a sparse gradient has moments and a step count of its own from the first time that it is
    touched; at a step in which it is not touched nothing happens to it. When every row is touched at every step this is
    ``torch.optim.AdamW``. Parameters with dense gradients are left to ``torch.optim.AdamW`` itself.

    Args:
        params: Parameters or groups.
        lr, betas, eps, weight_decay: As in ``torch.optim.AdamW``.
    """

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> Any:
        """One step. Returns what ``closure`` returns."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        by_rows = [
            (parameter, group)
            for group in self.param_groups
            for parameter in group["params"]
            if parameter.grad is not None and parameter.grad.is_sparse
        ]
        gradients = [parameter.grad for parameter, _ in by_rows]
        for parameter, group in by_rows:
            self._step_rows(parameter, group)
            parameter.grad = None
        super().step()
        for (parameter, _), gradient in zip(by_rows, gradients, strict=True):
            parameter.grad = gradient
        return loss

    def _step_rows(self, parameter: torch.Tensor, group: dict[str, Any]) -> None:
        assert parameter.grad is not None
        added_up = parameter.grad.coalesce()  # A row that was read more than once stands in it more than once.
        rows, gradient = added_up.indices()[0], added_up.values()
        if not len(rows):
            return
        state = self.state[parameter]
        if not state:
            state["rows"] = rows.new_empty(0)
            state["step"] = rows.new_empty(0)
            state["exp_avg"] = gradient.new_empty(0, *gradient.shape[1:])
            state["exp_avg_sq"] = gradient.new_empty(0, *gradient.shape[1:])
        at = _slots(state, rows)
        beta1, beta2 = group["betas"]
        state["step"][at] += 1
        steps = state["step"][at].to(torch.float64).view(-1, *[1] * (gradient.dim() - 1))
        average = state["exp_avg"][at].lerp_(gradient, 1 - beta1)
        square = state["exp_avg_sq"][at].mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
        state["exp_avg"][at], state["exp_avg_sq"][at] = average, square
        step_size = (group["lr"] / (1 - beta1**steps)).to(gradient.dtype)
        correction = (1 - beta2**steps).sqrt().to(gradient.dtype)
        change = average.mul_(step_size).div_(square.sqrt_().div_(correction).add_(group["eps"]))
        old = parameter[rows]
        parameter[rows] = old.mul_(1 - group["lr"] * group["weight_decay"]).sub_(change)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """As everywhere in torch, but row numbers stay integers (torch casts all state to the parameter's dtype)."""
        super().load_state_dict(state_dict)
        saved_ids = [number for group in state_dict["param_groups"] for number in group["params"]]
        parameters = [parameter for group in self.param_groups for parameter in group["params"]]
        for number, parameter in zip(saved_ids, parameters, strict=True):
            rows = state_dict["state"].get(number, {}).get("rows")
            if rows is not None:
                self.state[parameter]["rows"] = rows.to(parameter.device).clone()


def teach_norm_of_sparse_gradients() -> None:
    """Register the norm of a sparse tensor with PyTorch, which has none as of 2.13; once, where it is missing.

    ``clip_grad_norm_`` needs it; scaling a sparse gradient works as it is.
    """
    device = "cuda" if torch.cuda.is_available() else "cpu"
    probe = torch.sparse_coo_tensor(
        torch.zeros(1, 1, dtype=torch.long), torch.ones(1), (1,), device=device, check_invariants=False
    )
    try:
        torch.linalg.vector_norm(probe)
    except NotImplementedError:
        for key in ("SparseCPU", "SparseCUDA"):
            torch.library.impl("aten::linalg_vector_norm", key, _sparse_norm)


def _sparse_norm(
    tensor: torch.Tensor,
    ord: float = 2,
    dim: Any = None,
    keepdim: bool = False,
    *,
    dtype: torch.dtype | None = None,
) -> torch.Tensor:
    """Norm over all entries, where entries that stand for one place are added up first; zeros do not count."""
    if dim is not None or ord <= 0:
        raise NotImplementedError("Only norms of a positive order over all entries of a sparse tensor are known.")
    return torch.linalg.vector_norm(tensor.coalesce().values(), ord, dtype=dtype)


def _slots(state: dict[str, torch.Tensor], rows: torch.Tensor) -> torch.Tensor:
    """Where the state of ``rows`` (sorted) stands; rows without one get zeros. State is kept sorted by row."""
    known = state["rows"]
    at = torch.searchsorted(known, rows)
    is_known = torch.zeros_like(rows, dtype=torch.bool)
    if len(known):
        is_known = known[at.clamp(max=len(known) - 1)] == rows
    if bool(is_known.all()):
        return at
    merged = torch.cat([known, rows[~is_known]]).sort().values
    kept = torch.searchsorted(merged, known)
    for name in ("step", "exp_avg", "exp_avg_sq"):
        held = state.pop(name)
        state[name] = held.new_zeros(len(merged), *held.shape[1:]).index_copy_(0, kept, held)
        del held  # One of the three stands twice in memory at a time.
    state["rows"] = merged
    return torch.searchsorted(merged, rows)
