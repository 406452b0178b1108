"""Who answers in tests: a model that says what it is told to, and a random one with an adapter that shows."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import torch
from peft import get_peft_model
from torch import nn

from tinyengram.serving import Served
from tinyengram.serving.generation import can_use_cache
from tinyengram.sources import Base, load_base, load_tokenizer
from tinyengram.training import peft_config

BASE = "tiny-random-llama"
WEATHER = {
    "name": "weather",
    "description": "The weather.",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
}


class Scripted(nn.Module):
    """Says each of ``answers`` in turn, as ``generate`` would, and keeps the prompts that it was given.

    Args:
        answers: Texts; each is followed by the token that ends a turn.
        places: Tokens that the model can read.
    """

    def __init__(self, answers: list[str], places: int = 2048) -> None:
        super().__init__()
        self.anything = nn.Parameter(torch.zeros(1))
        self.config = SimpleNamespace(max_position_embeddings=places)
        self.tokenizer = load_tokenizer(BASE)
        self.prompts: list[str] = []
        self.asked: list[dict[str, Any]] = []
        self._answers = list(answers)

    def generate(self, *, input_ids: torch.Tensor, streamer: Any, stopping_criteria: Any, **options: Any) -> None:
        """Stream the next answer."""
        self.prompts.append(self.tokenizer.decode(input_ids[0]))
        self.asked.append(options)
        streamer.put(input_ids)
        written = self.tokenizer(self._answers.pop(0) + "<|im_end|>", add_special_tokens=False)["input_ids"]
        for token in written[: options["max_new_tokens"]]:
            streamer.put(torch.tensor([token]))
            if bool(stopping_criteria(input_ids, None).any()):
                break
        streamer.end()


def scripted(*answers: str, places: int = 2048) -> Served:
    """A scripted model without an adapter."""
    model = Scripted(list(answers), places)
    return Served(model, model.tokenizer, "scripted")


def spread_base() -> Base:
    """The tiny base with larger weights, so that what it says depends on what it reads."""
    base = load_base(BASE)
    with torch.no_grad():
        for name, parameter in base.model.named_parameters():
            if "norm" not in name:
                parameter.mul_(8)
    return base


def adapted(method: str, **options: Any) -> Served:
    """The same with an adapter of random weights."""
    base = spread_base()
    model: Any = get_peft_model(base.model, peft_config(method, options, base=base)).eval()
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.normal_(0, 3)
    served = Served(model, base.tokenizer, "adapter", BASE, method)
    return replace(served, use_cache=can_use_cache(model, base.tokenizer("Hello there.")["input_ids"]))
