"""The mutants that `make mutants` tries: each is another program, on as many lines, and none is forgotten."""

from __future__ import annotations

import ast
import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parent.parent
MEMORY = sorted((ROOT / "src" / "tinyengram" / "memory").glob("*.py"))


@pytest.fixture(scope="module")
def mutations() -> ModuleType:
    spec = importlib.util.spec_from_file_location("mutations", ROOT / "scripts" / "mutations.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["mutations"] = module  # Where a dataclass looks for its annotations.
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("line", "wanted"),
    [
        ("x = a <= b", {"x = (a < b)"}),
        ("x = a + b * c", {"x = (a - b * c)", "x = a + (b / c)"}),
        ("x = a and not b", {"x = (a or not b)", "x = a and (b)"}),
        ("x = 3", {"x = (4)", "x = (2)"}),
        ("x = -y", {"x = (y)"}),
        ("x = True", {"x = (False)"}),
        ("x = a if b else c", {"x = a if (not b) else c"}),
        ("x = [a for a in b if c]", {"x = [a for a in b if (not c)]"}),
        ("f(x)", {"pass"}),
        ("x.y = z", {"pass"}),
        ("x |= y", {"pass", "x &= y"}),
        ("raise ValueError('1 + 1')", {"pass"}),
        ("def f(x: int | None = 1): return x", {"(2)", "(0)", "return None"}),
        ("x: int | str = y", set()),
        ("'1 + 1'", set()),
        ("warnings.warn('x', stacklevel=2)", set()),
        ("x = f'{a + b}'", set()),
        ("é = '–' + b", {"é = ('–' - b)"}),
    ],
)
def test_a_line_has_these_mutants(mutations: ModuleType, line: str, wanted: set[str]) -> None:
    found = mutations.mutants_of(line)
    if line.startswith("def"):
        assert len(found) == len(wanted)
        assert all(any(part in one.after for part in wanted) for one in found)
    else:
        assert {one.after.replace("(not (b))", "(not b)").replace("(not (c))", "(not c)") for one in found} == wanted


@pytest.mark.parametrize(
    "path",
    [path if path.name == "compression.py" else pytest.param(path, marks=pytest.mark.slow) for path in MEMORY],
    ids=lambda path: path.name,
)
def test_mutants_of_the_memory_differ_from_it_and_keep_its_lines(mutations: ModuleType, path: Path) -> None:
    source = path.read_text()
    found = mutations.mutants_of(source)
    assert len({one.source for one in found}) == len(found)
    for one in found:
        assert ast.dump(ast.parse(one.source)) != ast.dump(ast.parse(source))
        assert one.source.count("\n") == source.count("\n")
        assert one.before in source
        assert one.start <= one.end
