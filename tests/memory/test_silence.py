"""An exact memory says nothing about texts that hold none of its n-grams, whatever it was trained on."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from peft import get_peft_model

from tests.memory import promises
from tests.memory.tiny import VOCABULARY, logits_of, some_ids, stir, tiny_config, tiny_model, train_briefly
from tinyengram import collect_ngrams

TAUGHT = some_ids(6, 30, seed=11)
ORDERS = (2, 3)
KNOWN_NGRAMS = {
    order: {tuple(text[at : at + order]) for text in TAUGHT.tolist() for at in range(len(text) - order + 1)}
    for order in ORDERS
}
# An n-gram that begins before the text has the pad token there.
for _text in TAUGHT.tolist():
    KNOWN_NGRAMS[2].add((0, _text[0]))
    KNOWN_NGRAMS[3] |= {(0, 0, _text[0]), (0, *_text[:2])}
ENDS: dict[int, set[int]] = {}
for _first, _second in KNOWN_NGRAMS[2]:
    ENDS.setdefault(_first, set()).add(_second)


@pytest.fixture(scope="module", params=["zero_tables", "paper"])
def taught(request: pytest.FixtureRequest) -> dict[str, Any]:
    known = collect_ngrams(TAUGHT.tolist(), orders=ORDERS, pad_token_id=0)
    model = get_peft_model(tiny_model(), tiny_config(memory="exact", ngrams=known, init=request.param))
    train_briefly(model, TAUGHT)
    stir(model)
    return {"model": model.eval(), "base": tiny_model()}


@st.composite
def unknown_texts(draw: st.DrawFn) -> list[int]:
    """Texts in which no taught pair of tokens stands: so no taught n-gram of any order."""
    text: list[int] = []
    for _ in range(draw(st.integers(1, 24))):
        allowed = [token for token in range(3, VOCABULARY) if token not in ENDS.get(text[-1] if text else 0, set())]
        text.append(draw(st.sampled_from(allowed)))
    return text


@settings(max_examples=200, deadline=None)
@given(text=unknown_texts())
def test_texts_without_a_known_ngram_have_the_bases_bits(taught: dict[str, Any], text: list[int]) -> None:
    promises.silent_without_known_ngrams(taught["model"], taught["base"], text)


@settings(max_examples=100, deadline=None)
@given(data=st.data(), before=unknown_texts(), after=unknown_texts())
def test_only_positions_in_reach_of_a_known_ngram_are_touched(
    taught: dict[str, Any], data: st.DataObject, before: list[int], after: list[int]
) -> None:
    """Neither what stands before it nor, beyond the convolution's taps, anything behind it."""
    pair = list(data.draw(st.sampled_from(sorted(KNOWN_NGRAMS[2]))))
    text = before[: data.draw(st.integers(0, 5))] + pair + after
    promises.silent_but_at_taps(taught["model"], KNOWN_NGRAMS[2] | KNOWN_NGRAMS[3], text)


def test_taught_texts_are_not_silent(taught: dict[str, Any]) -> None:
    assert (logits_of(taught["model"], TAUGHT) - logits_of(taught["base"], TAUGHT)).abs().max() > 0.1


def test_a_hard_gate_shuts_to_exactly_zero() -> None:
    known = collect_ngrams(TAUGHT.tolist(), orders=ORDERS, pad_token_id=0)
    model = get_peft_model(tiny_model(), tiny_config(memory="exact", ngrams=known, gate="hard"))
    stir(model)
    assert not torch.equal(logits_of(model, TAUGHT), logits_of(tiny_model(), TAUGHT))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "query_norm" in name:
                parameter.zero_()
            elif name.endswith("tables.weight"):
                parameter[-1].zero_()
    half_open = logits_of(model, TAUGHT)
    assert not torch.equal(half_open, logits_of(tiny_model(), TAUGHT))
    from tinyengram.memory.layer import EngramMemory

    memory = next(module for module in model.modules() if isinstance(module, EngramMemory))
    hidden, rows = torch.randn(50, 32), torch.zeros(50, 2, dtype=torch.long)
    with torch.no_grad():
        memory.query_norm.weight.fill_(50.0)
        read = memory.read(hidden, rows)
    shut = (read == 0).all(-1)
    assert shut.any(), "a strongly disagreeing hidden state shuts the gate"
    assert not shut.all()


@pytest.mark.parametrize("scale", [50.0, -50.0])
def test_a_hard_gate_that_is_wide_open_or_shut_can_still_learn(scale: float) -> None:
    known = collect_ngrams(TAUGHT.tolist(), orders=ORDERS, pad_token_id=0)
    model = get_peft_model(tiny_model(), tiny_config(memory="exact", ngrams=known, gate="hard"))
    stir(model)
    from tinyengram.memory.layer import EngramMemory

    memory = next(module for module in model.modules() if isinstance(module, EngramMemory))
    rows = torch.zeros(1, 2, dtype=torch.long)
    with torch.no_grad():
        for norm in (memory.key_norm, memory.query_norm):
            norm.weight.fill_(1.0)
        found = memory.tables(rows).flatten(-2)
        # Nearly along the key, or against it, the logit is beyond where the gate reaches 1, or 0.
        hidden = memory.key_norm(memory.key_proj(found)) * scale + torch.randn(1, 32)
        assert torch.equal(memory.read(hidden, rows), memory.value_proj(found) * (scale > 0))
    memory.read(hidden, rows).sum().backward()
    assert memory.key_proj.weight.grad.abs().max() > 0
