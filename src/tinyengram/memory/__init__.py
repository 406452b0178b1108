"""Engram memory as a PEFT method: knows torch, transformers and peft, nothing else of this package."""

from __future__ import annotations

from typing import Any

from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING, PEFT_TYPE_TO_PREFIX_MAPPING, PEFT_TYPE_TO_TUNER_MAPPING

from tinyengram.memory.compression import compress_vocabulary
from tinyengram.memory.config import ENGRAM, EngramConfig
from tinyengram.memory.layer import EngramLayer
from tinyengram.memory.model import EngramModel
from tinyengram.memory.ngrams import KnownNgrams, collect_ngrams

# PEFT's `register_peft_method` accepts only names in its own enum; these are the tables that it fills.
_REGISTRIES: tuple[tuple[dict[Any, Any], Any], ...] = (
    (PEFT_TYPE_TO_CONFIG_MAPPING, EngramConfig),
    (PEFT_TYPE_TO_TUNER_MAPPING, EngramModel),
    (PEFT_TYPE_TO_PREFIX_MAPPING, EngramModel.prefix),
)
for _registry, _entry in _REGISTRIES:
    _registry[ENGRAM] = _entry

__all__ = ["EngramConfig", "EngramLayer", "EngramModel", "KnownNgrams", "collect_ngrams", "compress_vocabulary"]
