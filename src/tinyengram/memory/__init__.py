"""Engram memory as a PEFT method: knows torch, transformers and peft, nothing else of this package."""

from __future__ import annotations

from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING, PEFT_TYPE_TO_PREFIX_MAPPING, PEFT_TYPE_TO_TUNER_MAPPING

from tinyengram.memory.compression import compress_vocabulary
from tinyengram.memory.config import ENGRAM, EngramConfig
from tinyengram.memory.layer import EngramLayer
from tinyengram.memory.model import EngramModel
from tinyengram.memory.ngrams import KnownNgrams, collect_ngrams

# PEFT's `register_peft_method` accepts only names in its own enum; these are the tables that it fills.
PEFT_TYPE_TO_CONFIG_MAPPING[ENGRAM] = EngramConfig
PEFT_TYPE_TO_TUNER_MAPPING[ENGRAM] = EngramModel
PEFT_TYPE_TO_PREFIX_MAPPING[ENGRAM] = EngramModel.prefix

__all__ = ["EngramConfig", "EngramLayer", "EngramModel", "KnownNgrams", "collect_ngrams", "compress_vocabulary"]
