"""``tinyengram ngrams``: sizes on standard output, what is being done on standard error."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from tinyengram.cli import main
from tinyengram.study.advice import NgramAdvice

BASE = "tiny-random-llama"


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data") / "chats.jsonl"
    chats = [[{"role": "user", "content": f"{n}?"}, {"role": "assistant", "content": f"It is {n}."}] for n in range(40)]
    path.write_text("".join(json.dumps({"messages": chat}) + "\n" for chat in chats))
    return path


@pytest.fixture
def ngrams(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    def run(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["tinyengram", "ngrams", *map(str, arguments)])
        with pytest.raises(SystemExit) as stopped:
            main()
        return int(stopped.value.code or 0), *capsys.readouterr()

    return run


def test_json_is_the_advice_and_nothing_else(ngrams, file: Path) -> None:
    code, out, err = ngrams(file, "--base", BASE, "--orders", "3, 2", "--json")
    assert code == 0
    advice = NgramAdvice.model_validate_json(out)
    assert [one.order for one in advice.orders] == [2, 3]
    assert "Counting n-grams of 32 texts, of orders 2, 3" in err


def test_tables_name_what_is_advised_and_the_lines_to_paste(ngrams, file: Path) -> None:
    code, out, _ = ngrams(file, "--base", BASE)
    assert code == 0
    advice = NgramAdvice.model_validate_json(ngrams(file, "--base", BASE, "--json")[1])
    for part in (advice.exact_config.python, advice.hashed_config.study, f"{advice.orders[0].coverage:.1%}"):
        assert part in out
    advised = next(line for line in out.splitlines() if "advised" in line)
    assert ", ".join(map(str, next(one for one in advice.hashed if one.advised).engram_vocab_size)) in advised


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["{file}", "--base", BASE, "--orders", "2,x"], ["orders='2,x'", "such as 2,3,4"]),
        (["{file}", "--base", BASE, "--orders", "0"], ["orders=[0]", "from 1 on"]),
        (["{file}", "--base", BASE, "--template", "own"], ["'own'", "Choose one of: chatml, tokenizer"]),
        (["{file}", "--base", BASE, "--eval-fraction", "1.5"], ["eval_fraction=1.5", "between 0 and 1"]),
        (["{file}", "--base", BASE, "--max-length", "5"], ["max_length=5", "Raise max_length"]),
        (["{file}", "--base", "no-such-base"], ["no-such-base", "(1)"]),
        (["nowhere.jsonl", "--base", BASE], ["nowhere.jsonl", "does not exist"]),
    ],
)
def test_bad_input_ends_in_a_line_with_value_and_remedy(ngrams, file: Path, arguments, parts) -> None:
    code, out, err = ngrams(*(argument.format(file=file) for argument in arguments))
    assert (code, out) == (2, "")
    for part in parts:
        assert part in err


def test_interrupted_it_ends_as_such(ngrams, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("tinyengram.study.advice.advise_ngrams", interrupted)
    code, out, err = ngrams(file, "--base", BASE)
    assert (code, out) == (130, "")
    assert "Interrupted." in err
