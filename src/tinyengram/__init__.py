"""Engram memory as a fine-tuning method, and the study of what fine-tuning methods learn and forget.

Importing it registers Engram with PEFT (as soon as PEFT itself is imported). The public names load on first use, so
that the command line answers at once.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

from tinyengram.registration import register_with_peft

__version__ = "0.1.0"

_PUBLIC = {
    "EngramConfig": "tinyengram.memory",
    "EngramModel": "tinyengram.memory",
    "ForgettingCallback": "tinyengram.watching.forgetting",
    "HoldToBase": "tinyengram.training.holding",
    "KnownNgrams": "tinyengram.memory",
    "collect_ngrams": "tinyengram.memory",
    "compress_vocabulary": "tinyengram.memory",
    "opening_of_tools": "tinyengram.memory",
    "DataSpec": "tinyengram.training.job",
    "evaluate": "tinyengram.study.evaluation",
    "load_conversations": "tinyengram.tasks.chat_data",
    "train": "tinyengram.study.tuning",
}

__all__ = [*_PUBLIC, "__version__"]


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        return getattr(import_module(_PUBLIC[name]), name)
    raise AttributeError(f"module 'tinyengram' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__


register_with_peft()
