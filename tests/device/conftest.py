"""Where these tests run, and when.

They need torch, transformers, PEFT, pytest and this repository, nothing else. The device is the machine's accelerator,
or what ``TINYENGRAM_DEVICE`` names (``cpu``, ``cuda:1``); ``-m device`` runs them on a machine that has only a CPU too,
where otherwise one of them is run.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import pytest
import torch

from tests.memory.tiny import some_ids, trained_memory
from tinyengram import collect_ngrams

MEMORIES: dict[str, dict[str, Any]] = {
    "hashed": {},
    "hashed, no convolution": {"kernel_size": 0},
    "exact": {"memory": "exact"},
}


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    named = "device" in (config.option.markexpr or "") or "TINYENGRAM_DEVICE" in os.environ
    if named or torch.accelerator.is_available():
        return
    left_out = [item for item in items for mark in item.iter_markers("device") if "smoke" not in item.keywords]
    config.hook.pytest_deselected(items=left_out)
    items[:] = [item for item in items if item not in left_out]


@pytest.fixture(scope="session")
def device() -> torch.device:
    if named := os.environ.get("TINYENGRAM_DEVICE"):
        return torch.device(named)
    found = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    if found is None:
        return torch.device("cpu")
    return torch.device(found.type, torch.accelerator.current_device_index())


@pytest.fixture
def needs(device: torch.device) -> Callable[[str, str], None]:
    """Skips, by name, what only devices of a kind can do."""

    def skip(kind: str, what: str) -> None:
        if device.type != kind:
            pytest.skip(f"{what}: needs a {kind} device, this is {device.type}")

    return skip


@pytest.fixture(params=MEMORIES)
def model(request: pytest.FixtureRequest, device: torch.device) -> Any:
    """A memory that moves its base's logits a lot, made on the CPU and brought to the device whole."""
    return memory_of(request.param).to(device)


def memory_of(kind: str, **options: Any) -> Any:
    options = {**MEMORIES[kind], **options}
    if options.get("memory") == "exact":
        options["ngrams"] = collect_ngrams(some_ids(6, 40, seed=5).tolist() + some_ids(2, 24).tolist(), orders=(2, 3))
    return trained_memory(**options)


@pytest.fixture
def ids(device: torch.device) -> torch.Tensor:
    return some_ids(2, 24).to(device)
