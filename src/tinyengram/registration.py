"""Makes Engram known to PEFT as soon as PEFT is imported, without importing PEFT: its import takes seconds."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from types import ModuleType

_METHOD = "tinyengram.memory"


def register_with_peft() -> None:
    """Register now if PEFT is imported already, else right after it is."""
    if "peft" in sys.modules:
        import_module(_METHOD)
    else:
        sys.meta_path.insert(0, _AfterPeft())


class _AfterPeft(MetaPathFinder):
    """Stands before the ordinary finders until PEFT is asked for, once."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname != "peft":
            return None
        sys.meta_path.remove(self)
        spec = find_spec(fullname)
        if spec is not None and spec.loader is not None:
            spec.loader = _ThenRegister(spec.loader)
        return spec


class _ThenRegister(Loader):
    """Loads a module with its own loader, then imports the method, which registers itself."""

    def __init__(self, loader: Loader) -> None:
        self._loader = loader

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        self._loader.exec_module(module)
        if module.__spec__ is not None:
            module.__spec__.loader = self._loader
        import_module(_METHOD)
