"""What a base said once stands in for the base: nothing where nothing changed, never more than the whole divergence."""

from __future__ import annotations

import pytest
from peft import LoraConfig, get_peft_model

from tests.watching.watched import TEXTS, spread
from tinyengram.scoring.drift import Drift, measure_drift
from tinyengram.scoring.recorded import drift_from, record_predictions


def test_recorded_divergence_is_zero_at_the_base_and_below_the_whole() -> None:
    base = spread()
    recorded = record_predictions(base.model, base.tokenizer, TEXTS, max_tokens=16)
    assert [row.kl for row in drift_from(base.model, recorded)] == [0, 0, 0]
    config = LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False)
    model = get_peft_model(base.model, config).eval()
    whole = measure_drift(model, base.tokenizer, TEXTS, max_tokens=16)
    for lumped, row in zip(drift_from(model, recorded), whole.rows, strict=True):
        assert lumped.nll == pytest.approx(row.nll, rel=1e-5)
        assert lumped.tokens == row.tokens
        assert lumped.kl == pytest.approx(row.kl, rel=1e-4)  # All but one of 259 tokens are kept.


def test_lumping_never_adds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tinyengram.scoring.recorded.LIKELIEST", 20)
    base = spread()
    recorded = record_predictions(base.model, base.tokenizer, TEXTS, max_tokens=16)
    model = get_peft_model(base.model, LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False)).eval()
    whole = measure_drift(model, base.tokenizer, TEXTS, max_tokens=16)
    assert 0 < Drift(rows=drift_from(model, recorded)).kl < whole.kl


def test_a_text_of_one_token_is_refused() -> None:
    base = spread()
    with pytest.raises(ValueError, match="fewer than two tokens"):
        record_predictions(base.model, base.tokenizer, ["a"], max_tokens=16)
