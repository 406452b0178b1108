"""Write the versions that a set-up installs: everything that the package and its development need, at its newest.

Run as ``make lock``. pip only resolves here, nothing is installed. torch stays at the version given, whose build for a
CPU machines can keep on disk; the CUDA libraries of other builds are left out, since each build of torch pins its own.
"""

from __future__ import annotations

import json
import platform
import subprocess
import sys
import tempfile
import venv
from pathlib import Path

TORCH = "torch==2.13.0"
BUILD = ("hatchling", "editables")
OF_TORCHS_BUILD = ("nvidia-", "cuda-", "triton")


def main(target: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        venv.create(Path(folder) / "venv", with_pip=True)
        report = Path(folder) / "report.json"
        command = [Path(folder) / "venv" / "bin" / "python", "-m", "pip", "install", "--quiet", "--dry-run"]
        subprocess.run([*command, "--report", report, *BUILD, TORCH, "--editable", ".[dev,play]"], check=True)
        resolved = json.loads(report.read_text())["install"]
    pins = {}
    for one in resolved:
        name, version = one["metadata"]["name"].lower().replace("_", "-"), one["metadata"]["version"]
        if name != "tinyengram" and not name.startswith(OF_TORCHS_BUILD):
            pins[name] = version.partition("+")[0]  # A build's local mark, such as +cpu, is found by the plain version.
    python = ".".join(platform.python_version_tuple()[:2])
    lines = [f"# Written by `make lock` for Python {python} on {platform.system()} {platform.machine()}."]
    lines += [f"{name}=={version}" for name, version in sorted(pins.items())]
    Path(target).write_text("\n".join(lines) + "\n")
    print(f"{target}: {len(pins)} packages")


if __name__ == "__main__":
    main(sys.argv[1])
