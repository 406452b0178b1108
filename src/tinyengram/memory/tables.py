"""The rows of one memory's heads: an embedding that may stay in host memory while the rest of the model moves."""

from __future__ import annotations

import mmap
from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import nn

from tinyengram.memory.exchange import Exchange, Shard, read


class Tables(nn.Embedding):
    """All heads of a memory, one behind the other.

    An nn.Embedding, so that DistributedDataParallel knows when its gradient is sparse.

    Args:
        n_rows, width: Size.
        unknown_row: A row that stays zero and gets no gradient, or None.
        on: ``"device"``: goes where the module goes. ``"cpu"``: stays in host memory wherever the module is moved to,
            follows changes of type only, and is taken as it is mapped from a file when it is loaded for inference.
            ``"ranks"``: as ``"device"``, but of several processes each holds its own rows alone.
    """

    def __init__(self, n_rows: int, width: int, unknown_row: int | None, on: Literal["device", "cpu", "ranks"]) -> None:
        self.on_host = on == "cpu"
        shard = Shard.of_process(n_rows) if on == "ranks" else None
        held = n_rows if shard is None else shard.held
        padding = unknown_row if shard is None else None
        super().__init__(held, width, padding_idx=padding, _weight=zeros(held, width, on_host=self.on_host))
        self.shard, self.silent_row = shard, unknown_row
        self.exchange = Exchange()
        # Trained rows of all ranks, sparse `(rows, width)`, while rank 0 saves them.
        self.gathered: torch.Tensor | None = None
        if shard is not None:
            self.weight.on_ranks = True  # type: ignore[attr-defined]
            self.weight.register_post_accumulate_grad_hook(self._mark)

    def _mark(self, weight: torch.Tensor) -> None:
        # A norm is that of all ranks' rows; `adamw` knows such a gradient by this.
        if weight.grad is not None and self.shard is not None:
            weight.grad.over_ranks = (self.exchange, self.shard.ranks)  # type: ignore[attr-defined]

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        """The rows ``(…, width)``, where the tables are, for int64 numbers of them on any device."""
        if self.shard is not None:
            return read(self, rows.to(self.weight.device))
        return super().forward(rows if rows.device == self.weight.device else rows.to(self.weight.device))

    def _apply(self, fn: Callable[[torch.Tensor], torch.Tensor], recurse: bool = True) -> Tables:
        if not self.on_host:
            return super()._apply(fn, recurse)

        def staying(tensor: torch.Tensor) -> torch.Tensor:
            # Moved or not is seen on a tensor without elements.
            moved = fn(tensor.new_empty(0))
            if tensor.is_meta and not moved.is_meta:  # As `to_empty` does.
                return torch.empty_like(tensor, device="cpu", dtype=moved.dtype)
            return tensor.to(moved.dtype)

        return super()._apply(staying, recurse)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        given, own = state_dict.get(f"{prefix}weight"), self.weight
        alike = given is not None and (given.shape, given.dtype, given.device) == (own.shape, own.dtype, own.device)
        if given is not None and alike and self.on_host and not own.requires_grad:
            # Not copied: what is mapped from a file takes memory as it is read.
            self.weight = nn.Parameter(given, requires_grad=False)
            return
        super()._load_from_state_dict(state_dict, prefix, *args)


def zeros(n_rows: int, width: int, *, on_host: bool = False, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """Zeros ``(n_rows, width)`` on the default device, or on the host; on a CPU rows take memory once they are written.

    ``torch.zeros`` writes every page. The kernel's fresh pages are zero as they are, so a large table of which few
    rows are ever trained stays as small as those.
    """
    place = torch.get_default_device().type
    if place != "meta" and on_host:
        place = "cpu"
    if place != "cpu" or not hasattr(mmap, "MAP_PRIVATE"):
        return torch.zeros(n_rows, width, dtype=dtype, device=place if place == "cpu" else None)
    pages = mmap.mmap(-1, dtype.itemsize * n_rows * width, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    return torch.frombuffer(pages, dtype=dtype).view(n_rows, width)
