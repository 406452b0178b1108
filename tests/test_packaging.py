"""The versions that are installed, promised and run are one story: ranges, lock, matrix and README agree."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
LOCK = dict(line.split("==") for line in (ROOT / "constraints.txt").read_text().splitlines() if line[0] != "#")


def requirements() -> list[Requirement]:
    """Of the package, of its extras and of its development, which names the extras as extras of the package."""
    extras = [one for part in PROJECT["optional-dependencies"].values() for one in part]
    found = [Requirement(one) for one in (*PROJECT["dependencies"], *extras)]
    return [one for one in found if one.name != PROJECT["name"]]


def extras_for_users() -> list[str]:
    """Names of what the extras add that are not the development's."""
    extras = {name: part for name, part in PROJECT["optional-dependencies"].items() if name != "dev"}
    return [Requirement(one).name for part in extras.values() for one in part]


@pytest.mark.parametrize("requirement", requirements(), ids=str)
def test_the_lock_holds_each_requirement_within_its_range(requirement: Requirement) -> None:
    locked = LOCK[requirement.name.lower().replace("_", "-")]
    assert requirement.specifier.contains(locked)


def test_what_is_imported_is_declared() -> None:
    declared = {
        requirement.name.replace("-", "_").lower() for requirement in requirements()[: len(PROJECT["dependencies"])]
    }
    declared |= {"yaml"} if "pyyaml" in declared else set()
    declared |= {name.replace("-", "_").lower() for name in extras_for_users()}
    pattern = re.compile(r"^\s*(?:from|import) ([a-zA-Z_]\w*)", re.MULTILINE)
    for file in (ROOT / "src").rglob("*.py"):
        for name in pattern.findall(file.read_text().replace('"""', "\n#")):
            known = name in declared or name in sys.stdlib_module_names or name == "tinyengram"
            assert known, f"{file.name} imports {name}, which is not declared"


def test_what_hooks_into_others_is_capped() -> None:
    for name in ("transformers", "peft"):
        (requirement,) = [one for one in requirements() if one.name == name]
        assert any(one.operator == "<" for one in requirement.specifier)


def matrix() -> list[dict[str, str]]:
    """Rows of the README's table."""
    lines = [line for line in (ROOT / "README.md").read_text().splitlines() if line.startswith("|")]
    start = next(index for index, line in enumerate(lines) if line.startswith("| kind | torch |"))
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[start : start + 5]]
    return [dict(zip(cells[0], row, strict=True)) for row in cells[2:]]


def test_the_readme_says_what_the_matrix_ran() -> None:
    oldest, locked, newest = matrix()
    assert [row["kind"] for row in (oldest, locked, newest)] == ["oldest", "locked", "newest"]
    bounds = {one.name: next((s.version for s in one.specifier if s.operator == ">="), "") for one in requirements()}
    for name in ("torch", "transformers", "peft", "accelerate", "trl", "datasets"):
        assert oldest[name].startswith(bounds[name]), name
        assert locked[name] == LOCK[name], name
    assert {row["result"] for row in (oldest, locked, newest)} == {"passed"}


def test_each_step_of_the_workflow_is_a_make_target() -> None:
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "checks.yml").read_text())
    runs = [step["run"] for job in workflow["jobs"].values() for step in job["steps"] if "run" in step]
    assert runs
    for run in runs:
        make, target, *_ = run.split()
        assert make == "make"
        assert target in targets


def test_a_python_that_does_not_fit_is_named_in_one_line() -> None:
    script, here = str(ROOT / "scripts" / "check_python.py"), f"{sys.version_info[0]}.{sys.version_info[1]}"

    def check(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([sys.executable, script, *arguments], capture_output=True, text=True)

    assert check(here, "constraints.txt").returncode == 0
    refused = check("3.99", "constraints.txt")
    assert refused.returncode == 1
    assert refused.stderr.strip().startswith(f"constraints.txt was made for Python 3.99; {sys.executable} is {here}.")
    assert "make PYTHON=" in refused.stderr
    assert len(refused.stderr.strip().splitlines()) == 1
    assert check("3.99", "").returncode == 0
