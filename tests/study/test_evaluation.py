"""What did it break? Any adapter or fine-tuned model beside its base, scored as a study scores, or refused by name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import IA3Config, LoraConfig, get_peft_model

from tests.memory.tiny import stir
from tinyengram import EngramConfig
from tinyengram.errors import TinyEngramError
from tinyengram.sources import load_base
from tinyengram.sources.provenance import cache_dir
from tinyengram.study.evaluation import Evaluation, embedded_name, evaluate, find_subject
from tinyengram.study.plan import presets
from tinyengram.training.job import DataSpec

BASE = "tiny-random-llama"
CALLS = DataSpec(
    name=str(presets()["smoke"].parent / "data" / "smoke_calls.jsonl"),
    template="chatml",
    max_length=512,
    eval_limit=4,
)
CONFIGS: dict[str, Any] = {
    "lora": LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False, task_type="CAUSAL_LM"),
    "ia3": IA3Config(
        target_modules=["k_proj", "down_proj"],
        feedforward_modules=["down_proj"],
        init_ia3_weights=False,
        task_type="CAUSAL_LM",
    ),
    "engram": EngramConfig(layer_ids=[1], max_ngram_size=2, engram_vocab_size=[50], n_embed_per_ngram=32,
                           n_head_per_ngram=2, task_type="CAUSAL_LM"),
}  # fmt: skip


def saved_adapter(folder: Path, method: str) -> Path:
    torch.manual_seed(0)
    model = get_peft_model(load_base(BASE).model, CONFIGS[method])
    if method == "engram":
        stir(model)
    model.save_pretrained(str(folder))
    return folder


def saved_model(folder: Path, change: float) -> Path:
    """A whole model whose last block was changed by so much."""
    model = load_base(BASE).model
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in model.model.layers[-1].parameters():
            parameter.add_(change * torch.randn_like(parameter))
    model.save_pretrained(str(folder))
    return folder


def evaluated(model: Path, out: Path, **changes: Any) -> Evaluation:
    return evaluate(str(model), **{"data": CALLS, "questions": 3, "out": out, **changes})


@pytest.mark.parametrize("method", ["lora", pytest.param("ia3", marks=pytest.mark.slow), "engram"])
def test_an_adapter_that_somebody_trained(tmp_path: Path, method: str) -> None:
    """Of plain PEFT's making: its base is found by what the adapter says, and what it moved is measured."""
    found = evaluated(saved_adapter(tmp_path / "adapter", method), tmp_path / "out")
    assert found.method == method
    assert found.plan.base.name == BASE
    assert found.model.drift is not None
    assert found.model.drift.kl > 0
    assert found.base.eval_loss_answer != found.model.eval_loss_answer
    assert found.model.retention["plain"].delta_mc2 is not None
    assert Evaluation.model_validate_json((tmp_path / "out" / "evaluation.json").read_text()) == found
    assert (tmp_path / "out" / "report.html").is_file()


def test_a_whole_model_is_measured_as_an_adapter_of_the_same_weights_is(tmp_path: Path) -> None:
    """A merged LoRA is the same function as the LoRA: every figure but the arithmetic's noise is the same."""
    adapter = saved_adapter(tmp_path / "adapter", "lora")
    torch.manual_seed(0)
    merged = get_peft_model(load_base(BASE).model, CONFIGS["lora"]).merge_and_unload()
    merged.save_pretrained(str(tmp_path / "merged"))
    as_adapter = evaluated(adapter, tmp_path / "a").model
    as_model = evaluated(tmp_path / "merged", tmp_path / "b", base=BASE).model
    assert as_model.eval_loss_answer == pytest.approx(as_adapter.eval_loss_answer, rel=1e-5)
    assert as_adapter.drift is not None
    assert as_model.drift is not None
    assert as_model.drift.kl == pytest.approx(as_adapter.drift.kl, rel=1e-3)
    for prompt, kept in as_adapter.retention.items():
        assert as_model.retention[prompt].shift == pytest.approx(kept.shift, rel=1e-3)


def test_a_model_that_is_its_base_broke_nothing(tmp_path: Path) -> None:
    found = evaluated(saved_model(tmp_path / "model", 0.0), tmp_path / "out", base=BASE)
    assert found.model.drift is not None
    assert found.model.drift.kl == 0
    assert {kept.shift for kept in found.model.retention.values()} == {0.0}
    assert "Nothing was learnt" in found.finding


def test_it_continues_and_another_evaluation_is_not_mixed_with_it(tmp_path: Path) -> None:
    model, news = saved_model(tmp_path / "model", 0.1), []
    first = evaluated(model, tmp_path / "out", base=BASE)
    again = evaluated(model, tmp_path / "out", base=BASE, on_event=news.append)
    assert again.model == first.model
    assert not [event for event in news if hasattr(event, "total")]
    with pytest.raises(TinyEngramError, match="another study: probes"):
        evaluated(model, tmp_path / "out", base=BASE, questions=4)


class TestRefused:
    def test_no_folder(self) -> None:
        with pytest.raises(TinyEngramError, match="There is no folder 'no/such'"):
            find_subject("no/such", None)

    def test_a_folder_of_neither(self, tmp_path: Path) -> None:
        with pytest.raises(TinyEngramError, match=r"neither adapter_config\.json nor"):
            find_subject(str(tmp_path), None)

    def test_a_whole_model_without_its_base(self, tmp_path: Path) -> None:
        with pytest.raises(TinyEngramError, match="Name the base that it was trained from by --base"):
            find_subject(str(saved_model(tmp_path / "model", 0.1)), None)

    @pytest.mark.parametrize(
        ("changes", "said"),
        [
            ({"peft_type": "NEXT_YEARS"}, "method 'next_years', which the installed PEFT does not know"),
            ({"peft_type": None}, "which the installed PEFT does not know"),
            ({"base_model_name_or_path": None}, "names no base"),
        ],
    )
    def test_an_adapter_that_says_too_little(self, tmp_path: Path, changes: dict, said: str) -> None:
        file = saved_adapter(tmp_path, "lora") / "adapter_config.json"
        file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))
        with pytest.raises(TinyEngramError, match=said):
            find_subject(str(tmp_path), None)

    def test_a_pickle(self, tmp_path: Path) -> None:
        adapter = saved_adapter(tmp_path, "lora")
        (adapter / "adapter_model.safetensors").rename(adapter / "adapter_model.bin")
        with pytest.raises(TinyEngramError, match=r"pickled adapter_model\.bin is not opened"):
            find_subject(str(adapter), None)

    def test_a_model_whose_vocabulary_grew(self, tmp_path: Path) -> None:
        model = load_base(BASE).model
        model.resize_token_embeddings(300)
        model.save_pretrained(str(tmp_path / "model"))
        with pytest.raises(TinyEngramError, match="predicts 300 tokens and its base 'tiny-random-llama' 259"):
            evaluated(tmp_path / "model", tmp_path / "out", base=BASE)

    def test_an_adapter_of_another_base(self, tmp_path: Path) -> None:
        adapter = saved_adapter(tmp_path / "adapter", "engram")
        other = saved_model(tmp_path / "other", 0.5)
        load_base(BASE).tokenizer.save_pretrained(str(other))
        with pytest.raises(TinyEngramError, match=r"cannot be put on .* other weights"):
            evaluated(adapter, tmp_path / "out", base=str(other))


def test_a_folder_of_the_cache_is_the_embedded_base() -> None:
    assert embedded_name(str(cache_dir() / "models" / BASE)) == BASE
    assert embedded_name("someone/model") == "someone/model"
