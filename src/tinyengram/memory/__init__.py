"""Engram memory as a PEFT method: knows torch, transformers and peft (by way of ``host``), nothing else of ours."""

from __future__ import annotations

from tinyengram import host
from tinyengram.memory.collect import collect_ngrams
from tinyengram.memory.compression import compress_vocabulary
from tinyengram.memory.config import ENGRAM, EngramConfig
from tinyengram.memory.latch import opening_of_tools
from tinyengram.memory.layer import EngramLayer
from tinyengram.memory.model import EngramModel
from tinyengram.memory.ngrams import KnownNgrams

host.register_method(ENGRAM, EngramConfig, EngramModel)

__all__ = [
    "EngramConfig",
    "EngramLayer",
    "EngramModel",
    "KnownNgrams",
    "collect_ngrams",
    "compress_vocabulary",
    "opening_of_tools",
]
