"""The sweep over the published ablations has the table's rows, and runs: its own arms on a tiny base."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from tinyengram.report.table import terminal_tables
from tinyengram.sources import load_base
from tinyengram.study.plan import load_study, parse_study, presets
from tinyengram.study.run import run_study

TABLE = {  # Layers, largest order, sizes of tables, width, heads: the published rows.
    "engram": ((1, 2, 3, 4), 4, (500, 100, 100), 1024, 16),
    "layers-5-7-13-17": ((5, 7, 13, 17), 4, (500, 100, 100), 1024, 16),
    "layers-21-24": ((21, 22, 23, 24), 4, (500, 100, 100), 1024, 16),
    "dim-512-heads-8": ((1, 2, 3, 4), 4, (500, 100, 100), 512, 8),
    "dim-1024-heads-8": ((1, 2, 3, 4), 4, (500, 100, 100), 1024, 8),
    "orders-2-3-500-100": ((1, 2, 3, 4), 3, (500, 100), 1024, 16),
    "orders-2-3-500-500": ((1, 2, 3, 4), 3, (500, 500), 1024, 16),
    "orders-2-3-1000-200": ((1, 2, 3, 4), 3, (1000, 200), 1024, 16),
    "orders-2-3-4-500-500-500": ((1, 2, 3, 4), 4, (500, 500, 500), 1024, 16),
}


def test_each_row_of_the_table_is_an_arm_beside_lora() -> None:
    study = load_study("ablations")
    assert study.reference == "lora"
    assert {study.settings(name).learning_rate for name in TABLE} == {4e-3}, "one rate for all memories"
    found = {}
    for name, arm in study.arms.items():
        if name != study.reference:
            assert arm.method == "engram"
            said = dict(arm.options)
            layers, sizes = said.pop("layer_ids"), said.pop("engram_vocab_size")
            names = ("max_ngram_size", "n_embed_per_ngram", "n_head_per_ngram")
            order, width, heads = (said.pop(option) for option in names)
            assert not said, "and nothing else differs"
            found[name] = (tuple(layers), order, tuple(sizes), width, heads)
    assert found == TABLE


@pytest.fixture
def deep_base(tmp_path: Path) -> Path:
    """The smoke study's base with as many layers as the sweep's reach."""
    from transformers import LlamaConfig, LlamaForCausalLM, set_seed

    tiny = load_base("tiny-random-llama")
    config = tiny.model.config.to_dict() | {"num_hidden_layers": 25, "hidden_size": 32, "intermediate_size": 32}
    set_seed(0)
    LlamaForCausalLM(LlamaConfig(**config)).save_pretrained(str(tmp_path / "base"))
    tiny.tokenizer.save_pretrained(str(tmp_path / "base"))
    return tmp_path / "base"


@pytest.mark.slow
def test_the_sweep_runs_on_a_tiny_base(deep_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tinyengram.study.run.rehearse_what_is_missing", lambda *_: None)  # Half of the time.
    content, smoke = (yaml.safe_load(presets()[name].read_text()) for name in ("ablations", "smoke"))
    content |= {"base": {"name": str(deep_base)}, "seeds": [0]}
    content["data"] = smoke["data"] | {"eval_limit": 2, "max_length": 320}
    content["truthfulqa"] = smoke["truthfulqa"] | {"prompts": ["plain"], "limit": 2}
    content["training"] |= {"batch_size": 1, "max_steps": 2, "eval_every": 2}
    results = run_study(parse_study(content, presets()["smoke"]), tmp_path / "out")
    assert {run.arm for run in results.trajectories} == {"lora", *TABLE}
    assert {one.arm for one in results.comparisons} == set(TABLE)
    sizes = {run.arm: run.trainable_parameters for run in results.trajectories}
    assert sizes["layers-21-24"] == pytest.approx(sizes["engram"], rel=0.01)
    assert sizes["dim-512-heads-8"] < 0.6 * sizes["dim-1024-heads-8"] < sizes["engram"]
    assert terminal_tables(results)
