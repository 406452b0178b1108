"""Run memory, scoring and a small study on the oldest, the locked and the newest versions; print what they were.

Run as ``make matrix``, or for some of the three: ``make matrix VERSIONS=oldest``. Each gets an environment of its own
under ``.venv-matrix``, made anew. The oldest versions are the lower bounds of ``pyproject.toml``, the newest whatever
the index gives within its upper ones.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import time
import tomllib
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SHOWN = ("torch", "transformers", "peft", "accelerate", "trl", "datasets")
TESTS = ("tests/test_host.py", "tests/memory", "tests/scoring", "tests/test_training.py")
KINDS = ("oldest", "locked", "newest")


def main(kinds: list[str]) -> int:
    rows, failed = [], False
    for kind in kinds or KINDS:
        row = run(kind)
        rows.append(row)
        failed |= row["result"] != "passed"
        print(table(rows), flush=True)
    return int(failed)


def run(kind: str) -> dict[str, str]:
    """Make an environment and run everything in it; the row of the table."""
    begun = time.monotonic()
    folder = ROOT / ".venv-matrix" / kind
    shutil.rmtree(folder, ignore_errors=True)
    venv.create(folder, with_pip=True)
    python = str(folder / "bin" / "python")
    log = folder / "log.txt"
    pip = [python, "-m", "pip", "install", "--quiet"]
    study = [python, "-m", "tinyengram", "compare", "smoke", "--out", str(folder / "smoke")]
    steps = [
        [*pip, *requirements(kind)],
        [python, "-m", "pytest", "-m", "not slow", "--numprocesses", "auto", "--dist", "loadgroup", *TESTS],
        study,
    ]
    result = "passed"
    with log.open("w") as output:
        for step in steps:
            done = subprocess.run(step, cwd=ROOT, stdout=output, stderr=subprocess.STDOUT, env=environment())
            if done.returncode:
                result = f"failed: {' '.join(step[2:4])} (see {log.relative_to(ROOT)})"
                break
    count = re.findall(r"(\d+) passed", log.read_text())
    minutes = (time.monotonic() - begun) / 60
    return {"kind": kind, **versions(python), "tests": count[-1] if count else "–", "result": result} | {
        "minutes": f"{minutes:.0f}"
    }


def environment() -> dict[str, str]:
    """This process's, without what would let another checkout or environment shine through."""
    return {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}


def requirements(kind: str) -> list[str]:
    """What pip is asked for."""
    if kind == "locked":
        return ["--constraint", "constraints.txt", "--editable", ".[dev]"]
    if kind == "newest":
        return ["--upgrade", "--upgrade-strategy", "eager", "--editable", ".[dev]"]
    return [*(f"{name}=={bound}" for name, bound in lower_bounds().items()), "--editable", ".[dev]"]


def lower_bounds() -> dict[str, str]:
    """The least version of each dependency, and of trl."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = [*project["dependencies"], *(one for one in project["optional-dependencies"]["dev"] if "trl" in one)]
    found = (re.match(r"([\w-]+)>=([\d.]+)", one) for one in wanted)
    return {match[1]: match[2] for match in found if match}


def versions(python: str) -> dict[str, str]:
    """Installed versions of the libraries that are shown."""
    listed = subprocess.run([python, "-m", "pip", "list", "--format", "json"], capture_output=True, text=True)
    found = {one["name"].lower(): one["version"] for one in json.loads(listed.stdout or "[]")}
    return {name: found.get(name, "–").partition("+")[0] for name in SHOWN}


def table(rows: list[dict[str, str]]) -> str:
    """Markdown, as the README shows it."""
    names = list(rows[0])
    lines = [names, ["---"] * len(names), *([row[name] for name in names] for row in rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
