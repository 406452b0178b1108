"""A backend of ``torch.compile`` whose outputs are gone by the next call, as those of CUDA graphs are."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch


class Replays:
    """Runs captured graphs as they are, and spoils what they returned when the next call begins.

    ``mode="reduce-overhead"`` records kernels once and replays them into the same memory, so a tensor that one call
    returned and the caller kept holds something else after the next. Here it holds NaN, or nonsense where it has
    integers, on any device.

    Attributes:
        graphs: How many graphs were captured.
    """

    def __init__(self) -> None:
        self.graphs = 0
        self._returned: list[torch.Tensor] = []

    def __call__(self, graph: torch.fx.GraphModule, examples: list[Any]) -> Callable[..., Any]:
        self.graphs += 1

        def run(*inputs: Any) -> Any:
            outputs = graph(*inputs)
            theirs = {tensor.untyped_storage().data_ptr() for tensor in inputs if isinstance(tensor, torch.Tensor)}
            for tensor in outputs:
                if isinstance(tensor, torch.Tensor) and tensor.untyped_storage().data_ptr() not in theirs:
                    self._returned.append(tensor)
            return outputs

        return run

    def begin(self) -> None:
        """The next call begins: what the last one returned is written over."""
        with torch.no_grad():
            for tensor in self._returned:
                tensor.fill_(float("nan") if tensor.is_floating_point() else 1)
        self._returned.clear()
