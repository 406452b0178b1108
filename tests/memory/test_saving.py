"""Adapter files: small, exact, and refused by name before a weight is used when anything about them is wrong."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from peft import PeftModel, get_peft_model
from safetensors.torch import load_file, save_file

from tests.memory.tiny import logits_of, some_ids, stir, tiny_config, tiny_model, train_briefly
from tinyengram import collect_ngrams

WEIGHTS, CONFIG = "adapter_model.safetensors", "adapter_config.json"
KNOWN = collect_ngrams(some_ids(6, 40, seed=7).tolist(), orders=(2, 3))


@pytest.fixture(params=["hashed", "exact"])
def saved(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    options = {"memory": "exact", "ngrams": KNOWN} if request.param == "exact" else {}
    model = get_peft_model(tiny_model(), tiny_config(**options))
    stir(model)
    model.save_pretrained(tmp_path)
    return tmp_path


def refused(folder: Path, match: str, **base) -> None:
    with pytest.raises(Exception, match=match):
        PeftModel.from_pretrained(tiny_model(**base), folder)


def change_config(folder: Path, **changes) -> None:
    config = json.loads((folder / CONFIG).read_text())
    (folder / CONFIG).write_text(json.dumps({**config, **changes}))


def change_weights(folder: Path, change: Callable[[dict[str, torch.Tensor]], None]) -> None:
    tensors = load_file(folder / WEIGHTS)
    change(tensors)
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})


def one(tensors: dict[str, torch.Tensor], part: str) -> str:
    return next(name for name in sorted(tensors) if part in name)


def drop(tensors: dict[str, torch.Tensor], part: str) -> None:
    del tensors[one(tensors, part)]


@pytest.mark.parametrize("at", [0.2, 0.5, 0.9, 0.999])
def test_a_flipped_bit(saved: Path, at: float) -> None:
    content = bytearray((saved / WEIGHTS).read_bytes())
    content[int(at * len(content))] ^= 4
    (saved / WEIGHTS).write_bytes(content)
    refused(saved, "damaged|checksum|safetensors|[Hh]eader")


def test_a_truncated_file(saved: Path) -> None:
    content = (saved / WEIGHTS).read_bytes()
    (saved / WEIGHTS).write_bytes(content[: len(content) // 2])
    refused(saved, "(?i)incomplete|header|invalid|metadata")


def test_missing_weights(saved: Path) -> None:
    change_weights(saved, lambda tensors: drop(tensors, "value_proj"))
    refused(saved, "lacks .*value_proj")


def test_a_file_without_a_checksum(saved: Path) -> None:
    change_weights(saved, lambda tensors: drop(tensors, "checksum"))
    refused(saved, "no Engram checksum")


def test_a_changed_weight(saved: Path) -> None:
    def scale(tensors: dict[str, torch.Tensor]) -> None:
        tensors[one(tensors, "key_proj")] *= 1.001

    change_weights(saved, scale)
    refused(saved, "damaged")


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"n_embed_per_ngram": 8}, "has shape"),
        ({"kernel_size": 2}, "has shape"),
        ({"layer_ids": [1, 3]}, "lacks|not what the options give"),
        ({"layer_ids": [1, 9]}, r"names \[9\]"),
        ({"engram_vocab_sise": 3}, "no option of Engram. Did you mean 'engram_vocab_size'"),
        ({"gate": "open"}, "sigmoid, hard"),
        ({"gate": "hard"}, "checksum is not that of its tensors and options"),
        ({"rows": "single"}, "checksum is not that of its tensors and options"),
        ({"fingerprint": {"base": {}}}, r"lacks \['compressed_vocab_size'"),
    ],
)
def test_changed_options(saved: Path, changes: dict, match: str) -> None:
    change_config(saved, **changes)
    refused(saved, match)


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"seed": 1}, "seed, layers or sizes"),
        ({"engram_vocab_size": [62, 30]}, "saved for another size|has shape|not what the options give"),
        ({"n_head_per_ngram": 4}, "saved for another size|has shape|not what the options give"),
        ({"max_ngram_size": 2, "engram_vocab_size": [60]}, "has shape|saved for another|not what the options give"),
    ],
)
def test_changed_options_of_a_hashed_memory(tmp_path: Path, changes: dict, match: str) -> None:
    model = get_peft_model(tiny_model(), tiny_config())
    stir(model)
    model.save_pretrained(tmp_path)
    change_config(tmp_path, **changes)
    refused(tmp_path, match)


def test_a_changed_module_that_is_saved_whole(tmp_path: Path) -> None:
    model = get_peft_model(tiny_model(), tiny_config(modules_to_save=["lm_head"]))
    stir(model)
    model.save_pretrained(tmp_path)
    loaded = PeftModel.from_pretrained(tiny_model(), tmp_path)
    assert torch.equal(logits_of(loaded, some_ids()), logits_of(model, some_ids()))

    def spoil(tensors: dict[str, torch.Tensor]) -> None:
        tensors[one(tensors, "lm_head")][3] = float("nan")

    change_weights(tmp_path, spoil)
    refused(tmp_path, "checksum is not that of its tensors and options")


def test_a_fingerprint_without_a_base(saved: Path) -> None:
    fingerprint = json.loads((saved / CONFIG).read_text())["fingerprint"]
    change_config(saved, fingerprint={**fingerprint, "base": {}})
    refused(saved, "nothing was loaded", num_hidden_layers=6)


@pytest.mark.parametrize("changed", [{"ngram_orders": [1, 3]}, {"ngram_orders": [3, 2]}])
def test_a_changed_fingerprint_of_an_exact_memory(tmp_path: Path, changed: dict) -> None:
    model = get_peft_model(tiny_model(), tiny_config(memory="exact", ngrams=KNOWN))
    stir(model)
    model.save_pretrained(tmp_path)
    fingerprint = json.loads((tmp_path / CONFIG).read_text())["fingerprint"]
    change_config(tmp_path, fingerprint={**fingerprint, **changed})
    refused(tmp_path, "nothing was loaded")


def test_a_longer_reach_of_an_exact_memory(tmp_path: Path) -> None:
    """Its n-grams stay the same, but the convolution's dilation would change."""
    model = get_peft_model(tiny_model(), tiny_config(memory="exact", ngrams=KNOWN))
    stir(model)
    model.save_pretrained(tmp_path)
    change_config(tmp_path, max_ngram_size=4)
    refused(tmp_path, "checksum is not that of its tensors and options")


@pytest.mark.parametrize(
    ("base", "match"),
    [
        ({"hidden_size": 64}, "hidden_size=32, but this one has 64"),
        ({"vocab_size": 101}, "vocab_size=97, but this one has 101"),
        ({"num_hidden_layers": 6}, "num_hidden_layers=4, but this one has 6"),
    ],
)
def test_another_base(saved: Path, base: dict, match: str) -> None:
    refused(saved, match, **base)


def test_another_compression_map(tmp_path: Path) -> None:
    from tinyengram.sources import load_base

    base = load_base("tiny-random-llama")
    model = get_peft_model(base.model, tiny_config(tokenizer_name_or_path=base.tokenizer.name_or_path))
    stir(model)
    model.save_pretrained(tmp_path)

    def swap(tensors: dict[str, torch.Tensor]) -> None:
        name = one(tensors, "compression")
        tensors[name] = tensors[name].flip(0).contiguous()

    change_weights(tmp_path, swap)
    with pytest.raises(ValueError, match="damaged"):
        PeftModel.from_pretrained(load_base("tiny-random-llama").model, tmp_path)


def test_size_follows_trained_rows_not_the_table(tmp_path: Path) -> None:
    model = get_peft_model(tiny_model(), tiny_config(engram_vocab_size=[50_000, 50_000]))
    ids = some_ids(2, 20)
    train_briefly(model, ids, steps=2)
    model.save_pretrained(tmp_path)
    tables = sum(p.numel() * 4 for n, p in model.named_parameters() if n.endswith("tables.weight"))
    assert tables > 12_000_000
    assert (tmp_path / WEIGHTS).stat().st_size < 100_000
    again = PeftModel.from_pretrained(tiny_model(), tmp_path)
    assert torch.equal(logits_of(again, ids), logits_of(model, ids))


def test_the_first_row_alone_can_be_trained(tmp_path: Path) -> None:
    model = get_peft_model(tiny_model(), tiny_config())
    table = model.get_parameter("base_model.model.model.layers.1.engram_memory.default.tables.weight")
    with torch.no_grad():
        table[0] = 1.0
    model.save_pretrained(tmp_path)
    back = PeftModel.from_pretrained(tiny_model(), tmp_path)
    name = "base_model.model.model.layers.1.engram_memory.default.tables.weight"
    assert torch.equal(back.get_parameter(name), table)


def test_the_checksum_stands_beside_the_index(saved: Path) -> None:
    checksums = [key for key in load_file(saved / WEIGHTS) if "checksum" in key]
    assert checksums == ["base_model.engram_index.checksum"]


@pytest.mark.parametrize("row", [-1, 10**6])
def test_row_numbers_beyond_the_table_are_refused(row: int, tmp_path: Path) -> None:
    model = get_peft_model(tiny_model(), tiny_config())
    name = "base_model.model.model.layers.1.engram_memory.default.tables.weight"
    with torch.no_grad():
        model.get_parameter(name)[3] = 1.0
    model.save_pretrained(tmp_path)

    def change(tensors: dict[str, torch.Tensor]) -> None:
        (key,) = (key for key in tensors if ".layers.1." in key and key.endswith("trained_rows"))
        tensors[key] = torch.tensor([row])

    change_weights(tmp_path, change)
    refused(tmp_path, "was saved for another size of table")
