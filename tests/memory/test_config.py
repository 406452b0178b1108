"""Options are taken up to their limits and refused beyond; what decides the output is part of an adapter's identity."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.memory.tiny import tiny_config
from tinyengram import EngramConfig, KnownNgrams

KNOWN = KnownNgrams.of(torch.tensor([[6, 5, -1], [7, 6, 5]]))
LEAST = {"n_head_per_ngram": 1, "kernel_size": 0, "seed": 0, "pad_token_id": 0}


@pytest.mark.parametrize("name", ["max_ngram_size", "n_embed_per_ngram", "n_head_per_ngram", "kernel_size", "seed"])
@pytest.mark.parametrize("value", [-1, True, False, 2.0, "2", None])
def test_what_is_no_number_of_things_is_refused(name: str, value: Any) -> None:
    with pytest.raises(ValueError, match=rf"{name}={value!r} must be an integer of at least"):
        tiny_config(**{name: value})


def test_the_least_of_each_is_taken() -> None:
    config = tiny_config(**LEAST, layer_ids=[0], max_ngram_size=2, engram_vocab_size=[1], n_embed_per_ngram=1)
    assert list(config.orders) == [2]
    assert (config.heads, config.row_width) == (1, 1)
    for name, least in (("max_ngram_size", 2), ("n_embed_per_ngram", 1), ("n_head_per_ngram", 1)):
        with pytest.raises(ValueError, match=f"at least {least}"):
            tiny_config(**{name: least - 1})


@pytest.mark.parametrize("value", [True, 0.5, "3"])
def test_what_is_no_token_is_refused(value: Any) -> None:
    with pytest.raises(ValueError, match="must be a token's id or None"):
        tiny_config(pad_token_id=value)


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("layer_ids", ([1, True], [1.0], ["1"], [], (), 3, "12")),
        ("engram_vocab_size", ([60, True], [60, 1.5], [60, 30, 30], [60, 0], [])),
        ("check_base", (1, None)),
        ("check_tensors", (0, "no")),
        ("trainable_tables", (1, None)),
        ("gate", ("soft", None)),
        ("rows", ("each",)),
        ("memory", ("",)),
    ],
)
def test_values_of_the_wrong_kind_are_refused_by_name(name: str, values: tuple) -> None:
    for value in values:
        with pytest.raises(ValueError, match=name):
            tiny_config(**{name: value})


@pytest.mark.parametrize(
    ("name", "value", "decides"),
    [
        ("layer_ids", [1, 3], True),
        ("gate", "hard", True),
        ("rows", "single", True),
        ("kernel_size", 3, True),
        ("n_embed_per_ngram", 8, True),
        ("n_head_per_ngram", 4, True),
        ("seed", 1, True),
        ("engram_vocab_size", [60, 31], True),
        ("trainable_tables", False, False),
        ("init", "paper", False),
        ("check_base", False, False),
    ],
)
def test_an_identity_is_what_decides_the_output(name: str, value: Any, decides: bool) -> None:
    assert (tiny_config(**{name: value}).identities() != tiny_config().identities()) == decides


def test_a_loaded_memory_has_the_identity_of_its_file_and_that_of_now() -> None:
    config = tiny_config(fingerprint={"base": "old"})
    assert len(config.identities()) == 2
    config.current_fingerprint = {"base": "new"}
    now, file = config.identities()
    assert '"new"' in now
    assert '"old"' in file
    assert len(tiny_config().identities()) == 1


def test_an_exact_memory_reads_one_row_per_order_and_keeps_its_ngrams_out_of_the_file() -> None:
    config = tiny_config(memory="exact", ngrams=KNOWN, seed=4)
    assert (config.heads, config.row_width) == (1, 16)
    assert config.to_dict()["ngrams"] is None
    assert config.ngrams is KNOWN
    # The hash's options do not decide what an exact memory gives.
    assert config.identities() == tiny_config(memory="exact", ngrams=KNOWN).identities()
    with pytest.raises(ValueError, match="gives every n-gram a row"):
        tiny_config(ngrams=KNOWN)


def test_a_memory_is_loaded_where_it_has_a_fingerprint_and_no_new_ngrams() -> None:
    stored = {"base": {}}
    assert tiny_config().from_file is None
    assert tiny_config(fingerprint=stored).from_file == stored
    assert tiny_config(memory="exact", ngrams=KNOWN, fingerprint=stored).from_file is None


def test_slips_of_the_pen_are_named_and_other_peoples_options_passed_over() -> None:
    with pytest.raises(TypeError, match="Did you mean 'layer_ids'"):
        EngramConfig(layer_idx=[1])
    with pytest.raises(TypeError, match="Known: "):
        EngramConfig(quantum_entanglement=1)
    with pytest.raises(TypeError, match="Did you mean 'kernel_size'"):
        EngramConfig(peft_type="ENGRAM", kernel_sizes=3)
    for name in ("quantum_entanglement", "gates"):  # Not so like one of ours that PEFT could not have meant it.
        assert EngramConfig.__new__(EngramConfig, peft_type="ENGRAM", **{name: 1})


def test_the_defaults_are_what_the_manual_and_saved_adapters_rely_on() -> None:
    config = EngramConfig()
    assert config.layer_ids == [1, 2, 3, 4]
    assert (config.max_ngram_size, config.engram_vocab_size) == (4, [500, 100, 100])
    assert (config.n_embed_per_ngram, config.n_head_per_ngram, config.kernel_size, config.seed) == (1024, 16, 4, 0)
    assert config.table_learning_rate_factor == 5.0
    assert config.trainable_tables
    assert config.check_base
    assert config.check_tensors
    assert config.pad_token_id is None


def test_options_of_our_own_are_those_that_a_file_holds_and_peft_does_not_know() -> None:
    names = EngramConfig.own_options()
    assert names == sorted(names)
    assert {"layer_ids", "kernel_size", "fingerprint", "ngrams"} <= set(names)
    assert not {"peft_type", "task_type", "check_base", "check_tensors", "tables_on"} & set(names)


def test_saving_writes_the_fingerprint_of_now_and_leaves_the_options_as_they_were(tmp_path: Path) -> None:
    config = tiny_config(fingerprint={"base": "old"})
    config.current_fingerprint = {"base": "new"}
    config.save_pretrained(tmp_path)
    assert config.fingerprint == {"base": "old"}
    assert json.loads((tmp_path / "adapter_config.json").read_text())["fingerprint"] == {"base": "new"}


def test_layers_and_sizes_given_as_ranges_or_tuples_are_what_a_file_can_hold() -> None:
    config = tiny_config(layer_ids=range(1, 3), engram_vocab_size=(60, 30))
    assert json.loads(json.dumps(config.to_dict()["layer_ids"])) == [1, 2]
    assert (config.layer_ids, config.engram_vocab_size) == ([1, 2], [60, 30])


def test_known_ngrams_are_not_printed() -> None:
    assert "ngrams" not in repr(tiny_config(memory="exact", ngrams=KNOWN))


def test_pefts_own_checks_are_made() -> None:
    with pytest.raises(ValueError, match="NO_SUCH_TASK"):
        tiny_config(task_type="NO_SUCH_TASK")
