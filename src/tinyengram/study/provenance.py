"""On what and with what a run was made."""

from __future__ import annotations

import shutil
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING

from tinyengram.study.results import RunProvenance

if TYPE_CHECKING:
    from tinyengram.sources import Base

_PACKAGES = ("tinyengram", "torch", "transformers", "peft", "accelerate", "datasets", "tokenizers", "numpy", "scipy")


def provenance_of(base: Base) -> RunProvenance:
    """Versions, hardware and the commit of this code."""
    import torch

    from tinyengram.hardware import describe

    versions = {}
    for package in _PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    return RunProvenance(
        versions=versions,
        hardware=describe(),
        threads=torch.get_num_threads(),
        commit=_commit(),
        base=base.provenance,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
    )


def _commit() -> str | None:
    """Commit of this code when it runs from a checkout, marked when files differ from it."""
    import subprocess

    if not shutil.which("git"):
        return None
    command = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    run = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True, check=False)
    return run.stdout.strip() if run.returncode == 0 else None
