"""The machine: what it is, and the one setting that makes PyTorch fast on its CPU."""

from __future__ import annotations

import ctypes
import math
import os
import platform
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import BaseModel

if TYPE_CHECKING:
    import torch

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_KEEP_BYTES = 1 << 30


class Hardware(BaseModel):
    """What a result was measured on."""

    processor: str
    cores: int
    memory_gib: float
    accelerators: list[str]
    platform: str


def keep_freed_memory() -> None:
    """Let glibc keep large freed buffers instead of returning them to the kernel at every free.

    A forward pass on a CPU frees and allocates the same large buffers again and again; mapping them anew each time cost
    up to five sixths of a small forward pass. Does nothing where the C library is another one.
    """
    if platform.libc_ver()[0] != "glibc":
        return
    libc = ctypes.CDLL(None)
    for parameter in (_M_MMAP_THRESHOLD, _M_TRIM_THRESHOLD):
        libc.mallopt(parameter, _KEEP_BYTES)


def device() -> torch.device:
    """Where this process computes: the CPU, or its accelerator, which ``LOCAL_RANK`` picks among several."""
    import torch

    accelerator = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    if accelerator is None:
        return torch.device("cpu")
    return torch.device(accelerator.type, int(os.environ.get("LOCAL_RANK", "0")))


def describe() -> Hardware:
    """The machine this runs on."""
    import torch

    accelerators = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    if torch.backends.mps.is_available():
        accelerators.append("Apple MPS")
    return Hardware(
        processor=_processor(),
        cores=cores_here(),
        memory_gib=round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        accelerators=accelerators,
        platform=platform.platform(),
    )


def cores_here() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def free_memory() -> float:
    """Bytes of memory that could be had now; where the system does not say, all that there is."""
    information = Path("/proc/meminfo")
    if information.exists():
        for line in information.read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return min(int(line.split()[1]) * 1024, _left_to_container())
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _left_to_container() -> float:
    """Bytes that a container (cgroup v2) may still have; infinite where there is none, or no limit."""
    limit, used = (Path("/sys/fs/cgroup") / name for name in ("memory.max", "memory.current"))
    try:
        return int(limit.read_text()) - int(used.read_text())
    except (OSError, ValueError):  # "max": no limit.
        return math.inf


def _processor() -> str:
    information = Path("/proc/cpuinfo")
    if information.exists():
        for line in information.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
