"""`tinyengram edit` as a user runs it: a new adapter beside the old one, or a line that says why not."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from peft import PeftModel, get_peft_model

from tinyengram import EngramConfig, collect_ngrams
from tinyengram.cli import main
from tinyengram.files import sha256_of
from tinyengram.sources import Base, load_base, load_tokenizer
from tinyengram.study.plan import presets
from tinyengram.training import peft_config

BASE = "tiny-random-llama"
CALLS = presets()["smoke"].parent / "data" / "smoke_calls.jsonl"
TAUGHT, OTHER = "the weather in Oslo", "BUY FIVE LAMPS"


def run(*arguments: object) -> int:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["tinyengram", "edit", *map(str, arguments)])
        with pytest.raises(SystemExit) as stopped:
            main()
    return int(stopped.value.code or 0)


def ids_of(base: Base, text: str) -> list[int]:
    return list(base.tokenizer(text, add_special_tokens=False)["input_ids"])


def logits(model: torch.nn.Module, base: Base, text: str) -> torch.Tensor:
    with torch.no_grad():
        return model.eval()(input_ids=torch.tensor([ids_of(base, text)])).logits


@pytest.fixture
def adapter(tmp_path: Path) -> Path:
    base = load_base(BASE)
    known = collect_ngrams([ids_of(base, TAUGHT), ids_of(base, OTHER)], orders=(2, 3))
    torch.manual_seed(0)
    config = EngramConfig(memory="exact", ngrams=known, layer_ids=[1, 2], n_embed_per_ngram=16, kernel_size=0)
    model = get_peft_model(base.model, config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "tables" in name:
                parameter[:-1].normal_()
    model.save_pretrained(str(tmp_path / "adapter"))
    return tmp_path / "adapter"


def test_one_thing_is_forgotten(adapter: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = {path.name: sha256_of(path) for path in adapter.iterdir()}
    assert run(adapter, "--forget", TAUGHT, "--out", tmp_path / "new", "--base", BASE) == 0
    said = capsys.readouterr().out
    assert "Taken back: " in said
    assert "“the”" in said
    assert {path.name: sha256_of(path) for path in adapter.iterdir()} == before
    assert "Made of adapter by `tinyengram edit`" in (tmp_path / "new" / "README.md").read_text()
    base = load_base(BASE)
    edited = PeftModel.from_pretrained(load_base(BASE).model, str(tmp_path / "new"))
    old = PeftModel.from_pretrained(load_base(BASE).model, str(adapter))
    assert torch.equal(logits(edited, base, f"in {TAUGHT}"), logits(base.model, base, f"in {TAUGHT}"))
    assert torch.equal(logits(edited, base, OTHER), logits(old, base, OTHER))
    assert not torch.equal(logits(edited, base, OTHER), logits(base.model, base, OTHER))


def test_its_own_tokenizer_goes_along(adapter: Path, tmp_path: Path) -> None:
    """TRL saves one beside the adapter, with the chat template that it was taught in."""
    tokenizer = load_base(BASE).tokenizer
    tokenizer.chat_template = "{{ 'its own' }}"
    tokenizer.save_pretrained(str(adapter))
    (adapter / "adapter_base.json").write_text("{}")
    assert run(adapter, "--forget", TAUGHT, "--out", tmp_path / "new", "--base", BASE) == 0
    assert load_tokenizer(str(tmp_path / "new")).chat_template == "{{ 'its own' }}"
    assert (tmp_path / "new" / "adapter_base.json").read_text() == "{}"


def test_held_out_calls_are_answered_before_and_after(
    adapter: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (adapter / "run").mkdir()
    data = f"data: {{name: {CALLS}, template: chatml, max_length: 512}}"
    (adapter / "run" / "plan.yaml").write_text(data)
    assert run(adapter, "--keep-only", TAUGHT, "--out", tmp_path / "new", "--base", BASE, "--calls", 2) == 0
    said = capsys.readouterr().out
    assert said.count(" of 2 calls right") == 2
    assert "Before: loss " in said
    assert "After: loss " in (tmp_path / "new" / "README.md").read_text()


def test_parts_are_merged(adapter: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(adapter, "--keep-only", TAUGHT, "--out", tmp_path / "a", "--base", BASE) == 0
    assert run(adapter, "--keep-only", OTHER, "--out", tmp_path / "b", "--base", BASE) == 0
    assert run(tmp_path / "a", "--merge", tmp_path / "b", "--out", tmp_path / "both", "--base", BASE) == 0
    assert "Taken in: " in capsys.readouterr().out
    assert run(adapter, "--merge", tmp_path / "b", "--out", tmp_path / "no", "--base", BASE) == 2
    assert "share" in capsys.readouterr().err
    assert not (tmp_path / "no").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--forget", "%%%"], r"knows no n-gram of '%%%'. Nearest known: '"),
        (["--forget", ""], "knows no n-gram of ''"),
        ([], "Say one thing to do"),
        (["--forget", TAUGHT, "--keep-only", OTHER], "Say one thing to do"),
        (["--forget", TAUGHT, "--forget", OTHER], "Nothing would be left"),
    ],
)
def test_what_cannot_be_done_is_said(
    adapter: Path, tmp_path: Path, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    if "Nothing" in message:  # N-grams that reach back to before the texts are known, too: take them back first.
        assert run(adapter, "--keep-only", TAUGHT, "--keep-only", OTHER, "--out", tmp_path / "a", "--base", BASE) == 0
        adapter = tmp_path / "a"
    capsys.readouterr()
    assert run(adapter, *arguments, "--out", tmp_path / "new", "--base", BASE) == 2
    said = " ".join(capsys.readouterr().err.split())
    assert message in said or message.replace("\\", "") in said
    assert not (tmp_path / "new").exists()


def test_no_memory_and_a_folder_that_is_there(
    adapter: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base = load_base(BASE)
    lora = get_peft_model(base.model, peft_config("lora", {"r": 2, "target_modules": "all-linear"}, base=base))
    lora.save_pretrained(str(tmp_path / "lora"))
    assert run(tmp_path / "lora", "--forget", TAUGHT, "--out", tmp_path / "new", "--base", BASE) == 2
    assert "has no memory: its method is lora" in capsys.readouterr().err
    assert run(adapter, "--forget", TAUGHT, "--out", adapter, "--base", BASE) == 2
    assert "is there already" in capsys.readouterr().err
