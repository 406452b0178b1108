"""AdamW whose time and memory follow the rows that were touched, not the table; and the norm of such gradients."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, cast

import torch

from tinyengram.errors import TinyEngramError

if TYPE_CHECKING:
    from torch.distributed.tensor import DTensor

_FIRST_CAPACITY = 1024
_MOMENTS = ("exp_avg", "exp_avg_sq")


class TouchedRows:
    """State of the rows of one parameter that were ever touched, packed in the order in which they first were.

    A map with one entry a row of the parameter says where a row's state stands (4 bytes; a moment of width 64 takes
    256), so that a step asks for its own rows alone. Capacity doubles, one tensor at a time; what is not yet used of
    it is never written, so on a CPU it takes no memory.

    Args:
        parameter: ``(rows, …)``.
        held: ``rows`` and ``step``, int64 ``(touched,)``, and ``exp_avg`` and ``exp_avg_sq``, ``(touched, …)``, as
            :meth:`packed` gives them; None where no row was touched yet.
    """

    def __init__(self, parameter: torch.Tensor, held: dict[str, torch.Tensor] | None = None) -> None:
        if held is None:
            none = torch.empty(0, dtype=torch.int64, device=parameter.device)
            moment = parameter.new_empty(0, *parameter.shape[1:])
            held = {"rows": none, "step": none.clone(), **{name: moment.clone() for name in _MOMENTS}}
        self._held = held
        self._count = len(held["rows"])
        self._limit = len(parameter)
        # One more than the place; 0 where a row has none.
        self._place = torch.zeros(self._limit, dtype=torch.int32, device=parameter.device)
        places = torch.arange(1, self._count + 1, dtype=torch.int32, device=parameter.device)
        self._place[held["rows"]] = places

    def __getitem__(self, name: str) -> torch.Tensor:
        """One of the four tensors, ``(capacity, …)``, to be read and written at what :meth:`places` gives."""
        return self._held[name]

    def places(self, rows: torch.Tensor) -> torch.Tensor:
        """Where the state of ``rows`` stands, int64 ``(n,)``; a row without one gets zeros.

        Args:
            rows: int64 ``(n,)``, each row once.
        """
        at = self._place.index_select(0, rows).long() - 1
        new = rows[at < 0]
        if len(new):
            first, self._count = self._count, self._count + len(new)
            self._reserve(self._count)
            for name, tensor in self._held.items():
                tensor[first : self._count] = new if name == "rows" else 0
            self._place[new] = torch.arange(first + 1, self._count + 1, dtype=torch.int32, device=rows.device)
            at = self._place.index_select(0, rows).long() - 1
        return at

    def packed(self) -> dict[str, torch.Tensor]:
        """A copy of what is in use, to be saved."""
        return {name: tensor[: self._count].clone() for name, tensor in self._held.items()}

    def _reserve(self, count: int) -> None:
        capacity = len(self._held["rows"])
        if count <= capacity:
            return
        capacity = min(max(count, 2 * capacity, _FIRST_CAPACITY), self._limit)
        for name in self._held:
            grown = self._held[name].new_empty(capacity, *self._held[name].shape[1:])
            held = len(self._held[name])
            grown[:held] = self._held[name]
            self._held[name] = grown  # What it replaces is freed before the next is copied.


class RowSparseAdamW(torch.optim.AdamW):
    """AdamW (Loshchilov and Hutter, arXiv 1711.05101) that also steps row by row.

    So it steps a parameter whose gradient is sparse, or whose group has ``by_rows``: those of its rows whose gradient
    is not all zero. A row has moments and a step count of its own from the first time that it is touched; at a step in
    which it is not touched nothing happens to it. When every row is touched at every step this is
    ``torch.optim.AdamW``. Everything else is left to ``torch.optim.AdamW`` itself.

    Of a parameter that FSDP2 cut along its first axis each process steps its own rows, and their state is cut alike and
    as large as they are, so that what gathers and saves shards knows it.

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
            if parameter.grad is not None
            and (parameter.grad.is_sparse or group.get("by_rows") or "touched" in self.state.get(parameter, ()))
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
        if _is_cut(parameter):
            held = self._of_shard(cast("DTensor", parameter))
            rows, gradient = _rows_of(_shard(parameter.grad))
            _step(_shard(parameter), rows, gradient, held, rows, group)
            return
        rows, gradient = _rows_of(parameter.grad)
        if not len(rows):
            return
        state = self.state[parameter]
        if "touched" not in state:
            if state:
                raise ValueError("A parameter with the state of a dense AdamW got a sparse gradient; start it anew.")
            state["touched"] = TouchedRows(parameter)
        _step(parameter, rows, gradient, state["touched"], state["touched"].places(rows), group)

    def _of_shard(self, parameter: DTensor) -> dict[str, torch.Tensor]:
        """State of this process's rows; made at the first step, also of a process that has none of what was read."""
        from torch.distributed.tensor import DTensor

        state = self.state[parameter]
        if not state:
            steps = torch.zeros(len(_shard(parameter)), dtype=torch.int64, device=_shard(parameter).device)
            state["step"] = DTensor.from_local(
                steps,
                parameter.device_mesh,
                parameter.placements,
                run_check=False,
                shape=parameter.shape[:1],
                stride=(1,),
            )
            state |= {name: torch.zeros_like(parameter) for name in _MOMENTS}
        return {name: _shard(state[name]) for name in ("step", *_MOMENTS)}

    def state_dict(self) -> dict[str, Any]:
        """As everywhere in torch; of a parameter that is stepped by rows, ``rows``, ``step`` and moments of those."""
        saved = super().state_dict()
        saved["state"] = {
            number: held["touched"].packed() if "touched" in held else held for number, held in saved["state"].items()
        }
        parameters = [parameter for group in self.param_groups for parameter in group["params"]]
        for number, parameter in enumerate(parameters):
            if hasattr(parameter, "on_ranks") and number in saved["state"]:
                saved["state"][number]["on_ranks"] = torch.ones(())  # Rows by other numbers than those of the table.
        return saved

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """As everywhere in torch, but row numbers stay integers (torch casts all state to the parameter's dtype).

        Raises:
            TinyEngramError: Tables lie on ranks: the state was saved of one of them.
        """
        saved_on_ranks = any("on_ranks" in held for held in state_dict["state"].values())
        on_ranks = any(hasattr(p, "on_ranks") for group in self.param_groups for p in group["params"])
        if state_dict["state"] and (on_ranks or saved_on_ranks):
            raise TinyEngramError(
                "A run with tables_on='ranks' cannot be resumed: its checkpoint holds the optimizer's state of rank 0 "
                "alone. Load the checkpoint's adapter and train on from it, or take tables_on='device'."
            )
        super().load_state_dict(state_dict)
        saved_ids = [number for group in state_dict["param_groups"] for number in group["params"]]
        parameters = [parameter for group in self.param_groups for parameter in group["params"]]
        for number, parameter in zip(saved_ids, parameters, strict=True):
            saved = state_dict["state"].get(number, {})
            if "rows" in saved:
                held = {name: saved[name].to(parameter.device).clone() for name in ("rows", "step")}
                held |= {name: self.state[parameter][name].clone() for name in _MOMENTS}
                self.state[parameter] = {"touched": TouchedRows(parameter, held)}


def _step(
    parameter: torch.Tensor,
    rows: torch.Tensor,
    gradient: torch.Tensor,
    held: TouchedRows | dict[str, torch.Tensor],
    at: torch.Tensor,
    group: dict[str, Any],
) -> None:
    """Step some rows of a parameter; their state stands in ``held`` at the places ``at``."""
    beta1, beta2 = group["betas"]
    # Whole rows are copied here; indexing with `[]` goes number by number.
    counts = held["step"].index_select(0, at) + 1
    average = held["exp_avg"].index_select(0, at).lerp_(gradient, 1 - beta1)
    square = held["exp_avg_sq"].index_select(0, at).mul_(beta2)
    square.addcmul_(gradient, gradient, value=1 - beta2)
    for name, value in (("step", counts), ("exp_avg", average), ("exp_avg_sq", square)):
        held[name].index_copy_(0, at, value)
    steps = counts.to(torch.float64).view(-1, *[1] * (gradient.dim() - 1))
    step_size = (group["lr"] / (1 - beta1**steps)).to(gradient.dtype)
    correction = (1 - beta2**steps).sqrt().to(gradient.dtype)
    change = average.mul_(step_size).div_(square.sqrt_().div_(correction).add_(group["eps"]))
    old = parameter.index_select(0, rows)
    parameter.index_copy_(0, rows, old.mul_(1 - group["lr"] * group["weight_decay"]).sub_(change))


def _is_cut(parameter: torch.Tensor) -> bool:
    """Whether a process has a part of a parameter alone."""
    if not torch.distributed.is_available():  # Not every build of torch has it.
        return False
    from torch.distributed.tensor import DTensor

    return isinstance(parameter, DTensor)


def _shard(tensor: torch.Tensor) -> torch.Tensor:
    """What this process has of a tensor that is cut along its first axis."""
    from torch.distributed.tensor import DTensor, Replicate, Shard

    assert isinstance(tensor, DTensor)
    if not all(isinstance(placement, Replicate) or placement == Shard(0) for placement in tensor.placements):
        raise ValueError(
            f"Tables are stepped by rows and can be cut along their first axis alone, not {tensor.placements}."
        )
    local: torch.Tensor = tensor.to_local()
    return local


def _rows_of(gradient: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The rows whose gradient is not all zero, int64 ``(n,)``, each once, and what it is there, ``(n, …)``.

    Rows that are read where nothing is learnt from it, as padding is, are not among them.
    """
    if not gradient.is_sparse:
        rows = gradient.flatten(1).any(1).nonzero()[:, 0]
        return rows, gradient[rows]
    added_up = gradient.coalesce()  # A row that was read more than once stands in it more than once.
    rows, values = added_up.indices()[0], added_up.values()
    taught = values.flatten(1).any(1)
    return (rows, values) if taught.all() else (rows[taught], values[taught])


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
    norm = torch.linalg.vector_norm(tensor.coalesce().values(), ord, dtype=dtype)
    over = getattr(tensor, "over_ranks", None)  # Of tables that lie on ranks; each has a part of the gradient.
    return norm if over is None else over[0].norm(norm, ord, over[1])
