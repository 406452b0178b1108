"""What is served is what was saved; what does not fit is refused by name with the remedy."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModelForCausalLM
from safetensors.torch import load_file, save_file

from tests.serving.models import BASE, adapted, spread_base
from tinyengram.serving import ServingError, Talk, load_served
from tinyengram.sources import SourceError


@pytest.fixture(scope="module")
def engram(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved(adapted("engram", layer_ids=[1, 2], init="paper").model, tmp_path_factory.mktemp("adapters"))


def saved(model: Any, folder: Path) -> Path:
    """An adapter's folder, with its base in a folder beside it."""
    spread_base().model.save_pretrained(folder / "base")
    spread_base().tokenizer.save_pretrained(folder / "base")
    model.save_pretrained(folder / "adapter")
    said_of(folder / "adapter", base_model_name_or_path=str(folder / "base"))
    return folder / "adapter"


def said_of(folder: Path, **changes: Any) -> None:
    file = folder / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


@pytest.mark.parametrize("method", ["lora", "engram", "prompt_tuning"])
def test_a_saved_adapter_says_what_it_said_before(method: str, tmp_path: Path) -> None:
    options = {"lora": {"target_modules": "all-linear"}, "engram": {"layer_ids": [1, 2], "init": "paper"}}
    before = adapted(method, **options.get(method, {"num_virtual_tokens": 5}))
    served = load_served(str(saved(before.model, tmp_path)))
    assert (served.method, served.base) == (method, str(tmp_path / "base"))
    assert not served.model.training
    said = [Talk(one, max_new_tokens=8).say("Hello").text for one in (before, served)]
    assert said[0] == said[1]


def test_a_method_that_generates_wrongly_however_it_is_done_is_refused_by_name(tmp_path: Path, monkeypatch) -> None:
    folder = saved(adapted("prompt_tuning", num_virtual_tokens=5).model, tmp_path)
    whole = PeftModelForCausalLM.generate

    def without_the_adapter(self, **options):
        with self.disable_adapter():
            return whole(self, **options)

    monkeypatch.setattr(PeftModelForCausalLM, "generate", without_the_adapter)
    with pytest.raises(ServingError, match=r"\(prompt_tuning\) cannot be generated from: .* standard deviations apart"):
        load_served(str(folder))


def test_the_base_may_be_named(engram: Path) -> None:
    base = str(engram.parent / "base")
    said_of(engram, base_model_name_or_path="/gone")
    with pytest.raises(SourceError, match=r"adapter is not at hand; name another by --base.*'/gone'"):
        load_served(str(engram))
    assert load_served(str(engram), base=base).base == base
    said_of(engram, base_model_name_or_path=None)
    with pytest.raises(ServingError, match="names no base"):
        load_served(str(engram))
    said_of(engram, base_model_name_or_path=base)


@pytest.mark.parametrize("method", ["lora", "engram"])
def test_another_base_is_refused_in_a_line_with_both_names(method: str, tmp_path: Path) -> None:
    options = {"lora": {"target_modules": "all-linear"}, "engram": {"layer_ids": [1, 2]}}
    folder = saved(adapted(method, **options[method]).model, tmp_path)
    file = folder / "adapter_model.safetensors"
    if method == "lora":
        save_file({name: torch.cat([one, one], dim=-1) for name, one in load_file(file).items()}, file)
    with pytest.raises(ServingError) as refused:
        load_served(str(folder), base=BASE)
    said = str(refused.value)
    assert f"The adapter {folder} cannot be put on the base {BASE!r}" in said
    assert "by --base" in said
    assert ".." not in said
    assert "\n" not in said


def test_a_tokenizer_beside_the_adapter_is_spoken_with(tmp_path: Path) -> None:
    folder = saved(adapted("lora", target_modules="all-linear").model, tmp_path)
    tokenizer = spread_base().tokenizer
    tokenizer.chat_template = tokenizer.chat_template.replace("<|im_start|>", "<|im_start|>the ")
    tokenizer.save_pretrained(folder)
    talk = Talk(load_served(str(folder)), max_new_tokens=1)
    talk.say("Hi")
    assert "<|im_start|>the user" in talk.renderer.prompt(talk.conversation)
    tokenizer.add_tokens(["<more>"])
    tokenizer.save_pretrained(folder)
    with pytest.raises(ServingError, match=r"has 260 tokens, but the base .* only 259"):
        load_served(str(folder))


def test_a_folder_that_was_not_saved_whole(tmp_path: Path) -> None:
    folder = saved(adapted("lora", target_modules="all-linear").model, tmp_path)
    said_of(folder, peft_type="LORRA")
    with pytest.raises(ServingError, match=r"'lorra' of .* is unknown. Did you mean 'lora'\?"):
        load_served(str(folder))
    said_of(folder, peft_type="LORA")
    weights = folder / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(ServingError, match=r"cannot be put on the base .* fetch the adapter again"):
        load_served(str(folder))
    weights.unlink()
    with pytest.raises(ServingError, match=r"has no weights \(adapter_model.safetensors\)"):
        load_served(str(folder))


@pytest.mark.parametrize(
    ("content", "said"), [("{", "cannot be read"), ("[]", "is no JSON object"), ("\xff", "cannot be read")]
)
def test_a_damaged_adapter_config(content: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_bytes(content.encode("latin-1"))
    with pytest.raises(ServingError, match=said):
        load_served(str(tmp_path))


def test_a_folder_that_holds_no_model_and_a_base_without_an_adapter(tmp_path: Path) -> None:
    with pytest.raises(ServingError, match=r"neither adapter_config.json nor config.json"):
        load_served(str(tmp_path))
    with pytest.raises(ServingError, match=r"--base x is for an adapter"):
        load_served(BASE, base="x")
    served = load_served(BASE)
    assert (served.base, served.method) == (None, None)
