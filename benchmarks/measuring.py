"""How the benchmarks measure: medians of calls that take turns, operations that are dispatched, compiled graphs."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

# What only looks at a tensor in another way, or returns it as it is.
VIEWS = {
    *("alias", "detach", "detach_", "expand", "flatten", "lift_fresh", "reshape", "select", "slice", "split"),
    *("squeeze", "t", "to", "transpose", "unbind", "unfold", "unsqueeze", "view", "view_as", "_unsafe_view"),
}


def median_seconds(calls: dict[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    """Median time of each call; the calls take turns, so that a noisy moment hits them all."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for call in calls.values():
        call()
    for _ in range(repeats):
        for name, call in calls.items():
            begun = time.perf_counter()
            call()
            times[name].append(time.perf_counter() - begun)
    return {name: statistics.median(values) for name, values in times.items()}


class Operations(TorchDispatchMode):
    """Counts what torch dispatches within it, views left out."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += str(function).split(".")[1] not in VIEWS
        return function(*args, **(kwargs or {}))


def operations(model: torch.nn.Module, ids: torch.Tensor) -> int:
    """Operations of one forward pass in inference mode, in which RMSNorm or a linear layer is one."""
    with Operations() as counted, torch.inference_mode():
        model(input_ids=ids, use_cache=False)
    return counted.count


def graphs(model: torch.nn.Module, ids: torch.Tensor) -> int:
    """Graphs that ``torch.compile`` makes of one forward pass."""
    torch._dynamo.reset()
    return torch._dynamo.explain(model)(input_ids=ids, use_cache=False).graph_count


def peak_memory() -> float:
    """GiB that this process held at most. Not ``ru_maxrss``, in which a child inherits what its parent held."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 2**20
    raise OSError("/proc/self/status names no VmHWM; peak memory is measured on Linux.")
