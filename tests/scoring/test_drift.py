"""Drift equals its definition however texts are grouped and cut, and is exactly zero where nothing moved."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from peft import LoraConfig, get_peft_model

from tests.memory.tiny import stir, tiny_config, tiny_model
from tinyengram.scoring import drift
from tinyengram.scoring.drift import Drift, TextDrift, measure_drift
from tinyengram.sources import load_base
from tinyengram.tasks.general_text import load_texts

TEXTS = [
    "It was the best of times, it was the worst of times.",
    "Call me Ishmael.",
    "All happy families are alike; each unhappy family is unhappy in its own way, or so they say.",
    "No.",
    "In the beginning there was nothing at all to be seen.",
]


def lora(**options) -> LoraConfig:
    return LoraConfig(**{"target_modules": "all-linear", "init_lora_weights": False, **options})


@pytest.fixture(params=["base", "lora", "engram", "mistral base", "mistral engram", "gpt2 lora"])
def model(request: pytest.FixtureRequest, base):
    torch.manual_seed(0)
    *kind, method = request.param.split()
    made = tiny_model(kind[0], vocab_size=len(base.tokenizer)) if kind else copy.deepcopy(base.model)
    if method == "engram":
        made = get_peft_model(made, tiny_config())
        stir(made)
    if method == "lora":
        gpt2 = {"target_modules": ["c_attn"], "fan_in_fan_out": True, "lora_alpha": 80}
        made = get_peft_model(made, lora(**gpt2 if kind else {}))
    return made.eval()


def defined(model, tokenizer, text: str) -> TextDrift:
    """The definition: each model reads the whole text once."""
    ids = torch.tensor([tokenizer.encode(text)])
    with torch.no_grad():
        ours = model(input_ids=ids, use_cache=False).logits[0, :-1].double().log_softmax(-1)
        theirs = ours
        if hasattr(model, "disable_adapter"):
            with model.disable_adapter():
                theirs = model(input_ids=ids, use_cache=False).logits[0, :-1].double().log_softmax(-1)
    own = ours[torch.arange(len(ours)), ids[0, 1:]]
    return TextDrift(tokens=len(ours), nll=-own.sum().item(), kl=(theirs.exp() * (theirs - ours)).sum().item())


@pytest.mark.parametrize(
    ("max_logits", "max_batch_tokens"), [(1, 4096), (259 * 14, 150), (1 << 24, 4096), (1 << 24, 1)]
)
def test_equal_to_reading_every_text_whole(
    model, base, monkeypatch: pytest.MonkeyPatch, max_logits: int, max_batch_tokens: int
) -> None:
    monkeypatch.setattr(drift, "_MAX_LOGITS", max_logits)
    finished: list[int] = []
    found = measure_drift(model, base.tokenizer, TEXTS, max_batch_tokens=max_batch_tokens, on_done=finished.append)
    assert sum(finished) == len(TEXTS)
    wanted = [defined(model, base.tokenizer, text) for text in TEXTS]
    for row, one in zip(found.rows, wanted, strict=True):
        assert row.tokens == one.tokens
        assert row.nll == pytest.approx(one.nll, rel=1e-4)
        assert row.kl == pytest.approx(one.kl, rel=1e-3)
        assert row.kl_per_token == row.kl / row.tokens
    tokens = sum(one.tokens for one in wanted)
    assert found.tokens == tokens
    assert found.kl == pytest.approx(sum(one.kl for one in wanted) / tokens, rel=1e-3)
    assert found.perplexity == pytest.approx(math.exp(sum(one.nll for one in wanted) / tokens), rel=1e-4)
    if hasattr(model, "disable_adapter"):
        assert min(row.kl_per_token for row in found.rows) > 1e-3
    else:
        assert found.kl == 0


@pytest.mark.parametrize("config", [LoraConfig(target_modules="all-linear"), tiny_config()], ids=["lora", "engram"])
def test_an_untrained_adapter_has_not_moved_at_all(base, config) -> None:
    plain = measure_drift(base.model, base.tokenizer, TEXTS)
    fresh = measure_drift(get_peft_model(copy.deepcopy(base.model), config).eval(), base.tokenizer, TEXTS)
    assert [row.kl for row in fresh.rows] == [0.0] * len(TEXTS)
    assert fresh.perplexity == pytest.approx(plain.perplexity)


def test_the_adapter_is_on_again_afterwards(base) -> None:
    model = get_peft_model(copy.deepcopy(base.model), lora()).eval()
    ids = torch.tensor([base.tokenizer.encode(TEXTS[0])])
    with torch.no_grad():
        before = model(input_ids=ids).logits
        measure_drift(model, base.tokenizer, TEXTS)
        assert torch.equal(model(input_ids=ids).logits, before)


def test_longer_texts_are_cut(base) -> None:
    cut = measure_drift(base.model, base.tokenizer, TEXTS, max_tokens=10)
    assert [row.tokens for row in cut.rows] == [9, 9, 9, 2, 9]
    short = measure_drift(base.model, base.tokenizer, [text[:10] for text in TEXTS])
    assert [row.nll for row in cut.rows] == pytest.approx([row.nll for row in short.rows])


@pytest.mark.parametrize("rows", [1, 5])
def test_memory_is_bounded_and_every_token_is_read_once(base, monkeypatch: pytest.MonkeyPatch, rows: int) -> None:
    monkeypatch.setattr(drift, "_MAX_LOGITS", 50 * 259)
    model = get_peft_model(copy.deepcopy(base.model), lora()).eval()
    read: list[int] = []
    model.base_model.model.register_forward_hook(lambda module, args, output: read.append(output.logits.numel()))
    texts = [text * 3 for text in TEXTS[:1]] * rows
    measure_drift(model, base.tokenizer, texts)
    assert max(read) <= 50 * 259
    assert sum(read) == 2 * rows * (len(texts[0]) - 1) * 259  # Twice: with the adapter and without.


def test_nothing_to_predict_is_refused(base) -> None:
    with pytest.raises(ValueError, match="at least one"):
        measure_drift(base.model, base.tokenizer, [])
    with pytest.raises(ValueError, match=r"'x'.*fewer than two tokens"):
        measure_drift(base.model, base.tokenizer, ["fine", "x"])
    with pytest.raises(ValueError, match="max_tokens=1"):
        measure_drift(base.model, base.tokenizer, ["fine"], max_tokens=1)


def test_texts_are_read_few_at_a_time(base) -> None:
    finished: list[int] = []
    texts = ["Ten tokens"] * 5
    measure_drift(base.model, base.tokenizer, texts, max_batch_tokens=25, on_done=finished.append)
    assert finished == [2, 2, 1]


def test_rows_survive_being_written(base) -> None:
    model = get_peft_model(copy.deepcopy(base.model), lora()).eval()
    found = measure_drift(model, base.tokenizer, TEXTS)
    assert Drift.model_validate_json(found.model_dump_json()) == found


@pytest.mark.slow
def test_the_embedded_base_reads_general_text_well() -> None:
    base = load_base("smollm2-135m-instruct")
    found = measure_drift(base.model, base.tokenizer, load_texts(limit=2).texts, max_tokens=256)
    assert found.tokens == 2 * 255
    assert 5 < found.perplexity < 60
