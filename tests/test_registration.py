"""Importing the package makes Engram known to PEFT, whichever comes first, and costs nothing until PEFT is used."""

from __future__ import annotations

import subprocess
import sys

import pytest

KNOWN = "from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING as known; assert 'ENGRAM' in known"


@pytest.mark.parametrize(
    "before",
    [
        "import tinyengram",
        pytest.param("import peft; import tinyengram", marks=pytest.mark.slow),
        "import tinyengram; import importlib.util as util; assert util.find_spec('peft'); util.find_spec('peft')",
        pytest.param(
            "import tinyengram; import transformers; transformers.utils.is_peft_available()", marks=pytest.mark.slow
        ),
    ],
)
def test_peft_knows_the_method(before: str) -> None:
    subprocess.run([sys.executable, "-c", f"{before}; {KNOWN}"], check=True)


def test_importing_loads_neither_torch_nor_peft() -> None:
    loaded = "import sys, tinyengram; assert not {'torch', 'peft', 'transformers'} & sys.modules.keys()"
    subprocess.run([sys.executable, "-c", loaded], check=True)


def test_afterwards_imports_are_as_before() -> None:
    code = (
        "import sys, tinyengram, peft; "
        "assert 'tinyengram' not in type(peft.__spec__.loader).__module__; "
        "assert not any('tinyengram' in type(finder).__module__ for finder in sys.meta_path)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
