"""Tables that lie on ranks: which rows a process holds, and how it reads and teaches those of others.

A row lies on the rank that is the remainder of its number by the count of ranks. Each head's rows stand together and
heads of few rows are read as often as large ones, so blocks would leave some ranks with most of the work.

Every exchange is a collective: every rank takes part in each, also where it reads nothing.
"""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import distributed, nn
from torch.nn import functional as F

from tinyengram import processes
from tinyengram.errors import TinyEngramError

if TYPE_CHECKING:
    from tinyengram.memory.tables import Tables


@dataclass(frozen=True)
class Shard:
    """The rows ``r`` of ``n_rows`` with ``r % ranks == rank``; the i-th held is row ``i * ranks + rank``."""

    n_rows: int
    rank: int
    ranks: int

    @classmethod
    def of_process(cls, n_rows: int) -> Shard | None:
        """What this process holds, by what ``torchrun`` and ``accelerate launch`` say; None where it is alone.

        Raises:
            TinyEngramError: There are more ranks than rows.
        """
        ranks = processes.processes()
        if ranks == 1:
            return None
        if n_rows < ranks:
            raise TinyEngramError(
                f"tables_on='ranks': a table of {n_rows} rows cannot be cut over {ranks} ranks; start at most {n_rows} "
                "or take tables_on='device'."
            )
        return cls(n_rows, int(os.environ["RANK"]), ranks)

    @property
    def held(self) -> int:
        """How many rows are held."""
        return len(range(self.rank, self.n_rows, self.ranks))

    def own(self, rows: torch.Tensor, values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Of rows by their numbers in the table those that are held, by their numbers here, and their values."""
        ours = rows % self.ranks == self.rank
        return rows[ours] // self.ranks, values[ours]


class Exchange:
    """All-to-all among the ranks, in a process group of its own, made at the first call.

    DistributedDataParallel adds up gradients while a backward pass runs; in its group the order of calls could be
    another on every rank.
    """

    def __init__(self) -> None:
        self._group: Any = None

    def __deepcopy__(self, memo: dict[int, Any]) -> Exchange:
        return self  # A copy of a model speaks to the same processes.

    def group(self, ranks: int) -> Any:
        """The process group. The first call is a collective.

        Raises:
            TinyEngramError: There is no process group of as many ranks as the tables were cut over.
        """
        if self._group is None:
            there = distributed.get_world_size() if distributed.is_available() and distributed.is_initialized() else 0
            if there != ranks:
                raise TinyEngramError(
                    f"tables_on='ranks': the tables are cut over {ranks} ranks, but the process group has {there}; "
                    "call torch.distributed.init_process_group() first, as Trainer does, or take tables_on='device'."
                )
            self._group = distributed.new_group()
        return self._group

    def rows(self, given: torch.Tensor, counts: list[int], coming: list[int]) -> torch.Tensor:
        """Rows ``(sum of counts, …)`` in the order of the ranks they go to; those that come, in that they come from."""
        group = self.group(len(counts))
        # As bytes, since backends do not send every type of number.
        width = math.prod(given.shape[1:])
        sent = given.contiguous().view(len(given), width).view(torch.uint8)
        got = sent.new_empty(sum(coming), width * given.element_size())
        distributed.all_to_all_single(got, sent, coming, counts, group=group)
        return got.view(given.dtype).view(sum(coming), *given.shape[1:])

    def counts(self, counts: torch.Tensor) -> list[int]:
        """How many rows come from each rank, for how many go to each, int64 ``(ranks,)``."""
        got = torch.empty_like(counts)
        distributed.all_to_all_single(got, counts, group=self.group(len(counts)))
        listed: list[int] = got.tolist()
        return listed

    def norm(self, norm: torch.Tensor, order: float, ranks: int) -> torch.Tensor:
        """The norm over all ranks of what each has the norm of."""
        maximum = order == float("inf")
        total = norm.clone() if maximum else norm**order
        operation = distributed.ReduceOp.MAX if maximum else distributed.ReduceOp.SUM
        distributed.all_reduce(total, operation, group=self.group(ranks))
        return total if maximum else total ** (1 / order)


class _Asked(torch.autograd.Function):
    """Rows of others; the gradient of each goes to the rank that holds it, divided by ranks as DDP's mean is."""

    @staticmethod
    def forward(ctx: Any, weight: torch.Tensor, wanted: torch.Tensor, tables: Tables) -> torch.Tensor:
        shard, exchange = cast(Shard, tables.shard), tables.exchange
        owner = wanted % shard.ranks
        order = owner.argsort(stable=True)
        asked = torch.bincount(owner, minlength=shard.ranks)
        coming = exchange.counts(asked)
        counts: list[int] = asked.tolist()
        local = exchange.rows(wanted[order] // shard.ranks, counts, coming)
        answers = exchange.rows(weight.index_select(0, local), coming, counts)
        ctx.save_for_backward(local, order)
        ctx.tables, ctx.counts, ctx.coming = tables, counts, coming
        return torch.empty_like(answers).index_copy_(0, order, answers)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        local, order = ctx.saved_tensors
        tables: Tables = ctx.tables
        shard = cast(Shard, tables.shard)
        tables.gathered = None  # Rows are about to change.
        values = tables.exchange.rows(gradients[0][order], ctx.counts, ctx.coming)
        rows, at = local.unique(return_inverse=True)
        total = values.new_zeros(len(rows), values.shape[1])
        # From each rank a row comes once, so that the sum has one order, on an accelerator too.
        for part, places in zip(values.split(ctx.coming), at.split(ctx.coming), strict=True):
            total.index_add_(0, places, part)
        taught = rows * shard.ranks + shard.rank != (-1 if tables.silent_row is None else tables.silent_row)
        total = total[taught].div_(shard.ranks)
        size = (shard.held, values.shape[1])
        return _sparse(rows[taught], total, size), None, None


def _sparse(rows: torch.Tensor, values: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """A sparse ``size`` with ``values`` at ``rows``, ascending and each once."""
    return torch.sparse_coo_tensor(rows[None], values, size, is_coalesced=True, check_invariants=False)


def read(tables: Tables, rows: torch.Tensor) -> torch.Tensor:
    """What stands in rows ``(…)`` of a table that lies on ranks, ``(…, width)``; a collective, as is its backward."""
    wanted, at = rows.unique(return_inverse=True)
    return F.embedding(at, _Asked.apply(tables.weight, wanted, tables))


def sharded(model: nn.Module) -> dict[str, Tables]:
    """Tables of a model that lie on ranks, by the names of their weights."""
    from tinyengram.memory.tables import Tables

    found = [(name, module) for name, module in model.named_modules() if isinstance(module, Tables)]
    return {f"{name}.weight": tables for name, tables in found if tables.shard is not None}


@torch.no_grad()
def gather_tables(model: nn.Module) -> None:
    """Bring trained rows of tables that lie on ranks to rank 0, which can then save the adapter.

    A collective: every rank calls it, then rank 0 calls ``save_pretrained``. ``Trainer.save_model`` does both. What was
    gathered is dropped at the next backward pass.
    """
    for tables in sharded(model).values():
        shard, weight = cast(Shard, tables.shard), tables.weight
        rows = weight.any(dim=1).nonzero().flatten()
        counts = torch.zeros(shard.ranks, dtype=torch.int64, device=weight.device)
        counts[0] = len(rows)
        coming = tables.exchange.counts(counts)
        sent: list[int] = counts.tolist()
        values = tables.exchange.rows(weight[rows], sent, coming)
        rows = tables.exchange.rows(rows * shard.ranks + shard.rank, sent, coming)
        if shard.rank == 0:
            order = rows.argsort()
            size = (shard.n_rows, weight.shape[1])
            tables.gathered = _sparse(rows[order], values[order], size)
