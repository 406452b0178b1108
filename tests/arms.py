"""What tests of training share: a tiny base, options of three methods, and examples that can be learned."""

from __future__ import annotations

import random
from typing import Any

from tests.memory.tiny import tiny_model
from tinyengram.sources import Base, Provenance
from tinyengram.tasks.rendering import EncodedExample
from tinyengram.training import TrainingSettings

LORA: dict[str, Any] = {"r": 4, "lora_dropout": 0.1, "target_modules": "all-linear"}
ENGRAM: dict[str, Any] = {
    "layer_ids": [1, 2],
    "max_ngram_size": 3,
    "engram_vocab_size": [60, 30],
    "n_embed_per_ngram": 16,
    "n_head_per_ngram": 2,
    "tokenizer_name_or_path": None,
}
EXACT: dict[str, Any] = {
    "memory": "exact",
    "ngrams": {"orders": [2, 3]},
    "layer_ids": [1, 2],
    "n_embed_per_ngram": 16,
    "tokenizer_name_or_path": None,
}


class NoTokenizer:
    """All that training asks of a tokenizer."""

    pad_token_id = 0
    name_or_path = "nowhere"


def tiny_base() -> Base:
    return Base(tiny_model(), NoTokenizer(), Provenance(name="tiny", kind="generated"))


def examples(count: int, seed: int = 0) -> list[EncodedExample]:
    """Texts of different lengths whose answer repeats a token of the prompt."""
    draw = random.Random(seed)
    made = []
    for index in range(count):
        prompt = [draw.randrange(3, 80) for _ in range(draw.randrange(8, 16))]
        answer = [90, prompt[1], prompt[2], 91]
        mask = [False] * len(prompt) + [True] * len(answer)
        made.append(EncodedExample(prompt + answer, mask, f"{seed}:{index}"))
    return made


def settings(**changes: Any) -> TrainingSettings:
    given = {"learning_rate": 5e-3, "loss_on": "answer", "batch_size": 4, "max_steps": 13, "eval_every": 5, **changes}
    return TrainingSettings(**given)
