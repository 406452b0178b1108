"""A model that is read wrongly is told by its gaps; a base, LoRA and a memory have none beyond rounding."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import pytest
import torch
from peft import LilyConfig, LoraConfig, get_peft_model

from tests.scoring.models import adapted
from tinyengram.scoring.soundness import Gaps, Unsound, check_gaps, check_switched_off, measure_gaps, whole_logits
from tinyengram.sources import Base

PROMPT = list(b"A prompt that is longer than a few tokens")
NONE = Gaps(ahead=0.0, cache=1e-6, pieces=1e-6, generated=())


@pytest.mark.parametrize("method", ["base", "lora", "engram"])
def test_what_is_read_rightly_has_no_gaps(base: Base, method: Any) -> None:
    gaps = measure_gaps(adapted(base, method), base.tokenizer, PROMPT)
    assert gaps.ahead == 0
    assert max(gaps.cache, gaps.pieces) < 1e-3
    assert len(gaps.generated) == 6
    check_gaps(gaps, NONE)


def test_a_method_that_looks_ahead_is_told(base: Base) -> None:
    """Lily weighs its experts by a mean over all tokens."""
    torch.manual_seed(0)
    config = LilyConfig(target_modules=["q_proj", "v_proj"], init_weights=False, task_type="CAUSAL_LM")
    model = get_peft_model(copy.deepcopy(base.model), config).eval()
    with pytest.raises(Unsound, match="looks ahead"):
        check_gaps(measure_gaps(model, base.tokenizer, PROMPT), NONE)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"ahead": 1e-4}, "do not stand where its tokens do"),
        ({"cache": 0.01}, "with and without a cache: logits are 0.01"),
        ({"cache": float("inf")}, "inf standard deviations"),
        ({"pieces": 0.01}, "in pieces and whole: 0.01 nats"),
        ({"pieces": float("nan")}, "nan nats"),
    ],
)
def test_each_gap_is_named_unless_the_base_has_it_too(change: dict[str, float], said: str) -> None:
    with pytest.raises(Unsound, match=said):
        check_gaps(replace(NONE, **change), NONE)
    if max(change.values()) < 1:
        check_gaps(replace(NONE, **change), replace(NONE, **change))


def test_a_base_that_is_gone_is_told(base: Base) -> None:
    of_base = whole_logits(base.model, PROMPT)
    for init, gone in ((True, False), ("pissa", True)):
        config = LoraConfig(target_modules=["q_proj", "v_proj"], init_lora_weights=init, task_type="CAUSAL_LM")
        model = get_peft_model(copy.deepcopy(base.model), config).eval()
        if gone:
            with pytest.raises(Unsound, match="switched off it is not the base"):
                check_switched_off(model, of_base, PROMPT)
        else:
            check_switched_off(model, of_base, PROMPT)
