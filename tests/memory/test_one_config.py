"""One config object for several adapters and bases, as everywhere in PEFT."""

from __future__ import annotations

from pathlib import Path

import torch
from peft import PeftModel, get_peft_model

from tests.memory.tiny import logits_of, some_ids, stir, tiny_config, tiny_model, trained_memory
from tinyengram import EngramConfig


def test_two_adapters_of_one_model(tmp_path: Path) -> None:
    config, ids = tiny_config(), some_ids()
    model = get_peft_model(tiny_model(), config)
    model.add_adapter("other", config)
    model.add_adapter("third", config)
    stir(model)
    model.set_adapter("other")
    model.eval()
    stir(model, seed=5)
    wanted = logits_of(model, ids)
    model.save_pretrained(tmp_path, selected_adapters=["other"])
    assert torch.equal(logits_of(PeftModel.from_pretrained(tiny_model(), tmp_path / "other"), ids), wanted)


def test_two_bases_each_keep_their_own_fingerprint(tmp_path: Path) -> None:
    config, ids = tiny_config(), some_ids()
    small = get_peft_model(tiny_model(), config)
    large = get_peft_model(tiny_model(num_hidden_layers=5), config)
    for model, depth in ((small, 4), (large, 5), (small, 4)):
        stir(model)
        model.save_pretrained(tmp_path)
        again = PeftModel.from_pretrained(tiny_model(num_hidden_layers=depth), tmp_path)
        assert torch.equal(logits_of(again, ids), logits_of(model, ids))


def test_what_it_was_used_for_is_not_among_its_options() -> None:
    config = tiny_config()
    get_peft_model(tiny_model(), config)
    options = {name: value for name, value in config.to_dict().items() if name != "peft_type"}
    get_peft_model(tiny_model(seed=1), EngramConfig(**options))  # Another base, which is not refused.


def test_peft_goes_on_with_the_object_it_was_given(tmp_path: Path) -> None:
    trained_memory().save_pretrained(tmp_path)
    config = tiny_config()
    assert PeftModel.from_pretrained(tiny_model(), tmp_path, config=config).peft_config["default"] is config
