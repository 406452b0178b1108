"""The benchmark for an accelerator runs, so that it does not fail on the day when there is one."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_the_device_benchmark_measures_every_figure(tmp_path: Path) -> None:
    page = tmp_path / "device.md"
    command = [sys.executable, str(ROOT / "benchmarks" / "device.py"), "--device", "cpu", "--blocks", "5"]
    subprocess.run(
        [*command, "--batch", "1", "--length", "16", "--repeats", "1", "--out", str(page)], check=True, cwd=ROOT
    )
    rows = [line for line in page.read_text().splitlines() if line.startswith("| ")]
    assert [row.split("|")[1].strip() for row in rows[2:]] == [
        "forward",
        "cached decoding",
        "peak memory, forward",
        "compiled forward",
        "training step",
        "peak memory, training",
        "row indices",
    ]
