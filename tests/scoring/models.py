"""Models that scorers must score alike."""

from __future__ import annotations

import copy
from typing import Any, Literal

import torch
from peft import LoraConfig, get_peft_model

from tests.memory.tiny import stir, tiny_config
from tinyengram.sources import Base


def adapted(base: Base, method: Literal["base", "lora", "engram"]) -> Any:
    """A copy of a base under an adapter that changes its output."""
    torch.manual_seed(0)
    made: Any = copy.deepcopy(base.model)
    if method == "lora":
        made = get_peft_model(made, LoraConfig(target_modules="all-linear", init_lora_weights=False))
    if method == "engram":
        made = get_peft_model(made, tiny_config())
        stir(made)
    return made.eval()
