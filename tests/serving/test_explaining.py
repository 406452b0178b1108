"""An explained text says what the model and its base expect, and shows anybody's text as it is."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch
from peft import get_peft_model

from tests.serving.models import BASE, WEATHER, adapted, spread_base
from tinyengram.cli import main
from tinyengram.report.explained import coloured, in_words, moved_most, render_explained
from tinyengram.serving import Served, ServingError, Talk
from tinyengram.serving.explaining import Explained, Likely, Memory, Ngram, Step, explain, explain_answer
from tinyengram.sources import load_base
from tinyengram.training import peft_config

ENGRAM = {"layer_ids": [1, 2], "init": "paper"}
TEXT = "The weather in Oslo, please."


@pytest.fixture(scope="module")
def served() -> Served:
    return adapted("engram", **ENGRAM)


def test_each_token_is_told_as_it_was_expected(served: Served) -> None:
    explained = explain(served, TEXT)
    ids = served.tokenizer(TEXT, add_special_tokens=False)["input_ids"]
    with torch.no_grad():
        ours = served.model(input_ids=torch.tensor([ids])).logits[0].log_softmax(-1)
        with served.model.disable_adapter():
            base = served.model(input_ids=torch.tensor([ids])).logits[0].log_softmax(-1)
    assert "".join(step.text for step in explained.steps) == TEXT
    assert explained.steps[0].moved is None
    assert len(explained.steps) == len(ids) + 1
    for at, step in enumerate(explained.steps[1:]):
        divergence = float((base[at].exp() * (base[at] - ours[at])).sum())
        assert step.moved == pytest.approx(divergence, rel=1e-3, abs=1e-4)
        assert step.likeliest is not None
        assert step.likeliest_of_base is not None
        assert step.likeliest.probability == pytest.approx(float(ours[at].exp().max()), rel=1e-4)
        assert step.likeliest_of_base.text == served.tokenizer.decode([int(base[at].argmax())])
        if at + 1 < len(ids):
            assert step.probability == pytest.approx(float(ours[at, ids[at + 1]].exp()), rel=1e-3)
            assert step.of_base == pytest.approx(float(base[at, ids[at + 1]].exp()), rel=1e-3)
        bigram = step.memories[0].ngrams[0]
        assert bigram.text == served.tokenizer.decode(ids[max(0, at - 1) : at + 1])
    assert explained.steps[-1].text == ""
    assert f"{len(ids)} of {len(ids)} tokens" in in_words(explained)


def test_characters_of_several_tokens_are_whole(served: Served) -> None:
    text = "Oslo 雨 ☔ é!"
    steps = explain(served, text).steps
    assert "".join(step.text for step in steps) == text
    assert "\N{REPLACEMENT CHARACTER}" not in "".join(step.text for step in steps)
    assert any(step.text == "雨" for step in steps)


def test_an_answer_is_explained_with_what_was_asked(served: Served) -> None:
    talk = Talk(served, tools=[WEATHER])
    explained = explain_answer(talk, TEXT, max_new_tokens=5)
    said = Talk(served, tools=[WEATHER], max_new_tokens=5).say(TEXT)
    assert "".join(step.text for step in explained.steps if step.is_answer) == said.text
    assert sum(step.is_answer for step in explained.steps) == said.tokens
    assert WEATHER["name"] in "".join(step.text for step in explained.steps if not step.is_answer)
    assert talk.conversation.turns == ()


def test_a_shut_latch_says_that_the_text_is_the_bases(served: Served) -> None:
    opening = served.tokenizer("<tools>", add_special_tokens=False)["input_ids"]
    shut = adapted("engram", **ENGRAM, open_after=[opening])
    explained = explain(shut, TEXT)
    assert explained.is_shut
    assert {step.moved for step in explained.steps[1:]} == {0.0}
    assert "latch was shut at every token: the text is the base's, to the bit" in in_words(explained)
    opened = explain(shut, f"<tools>{TEXT}")
    assert not opened.is_shut
    assert any(step.moved for step in opened.steps)


@pytest.mark.parametrize("text", ["", "x " * 2000])
def test_texts_that_cannot_be_explained(served: Served, text: str) -> None:
    with pytest.raises(ServingError, match=r"no token|at most \d+ are explained"):
        explain(served, text)


def test_a_model_without_a_memory_is_refused() -> None:
    lora, base = adapted("lora", target_modules="all-linear"), spread_base()
    with pytest.raises(ServingError, match=r"has no memory: its method is lora\. Give the folder of an Engram adapter"):
        explain(lora, TEXT)
    with pytest.raises(ServingError, match="a model without an adapter"):
        explain_answer(Talk(Served(base.model, base.tokenizer, BASE)), TEXT)


def hostile() -> Explained:
    text = "<script>alert(1)</script>[red]\x1b[31m"
    likely = Likely(text=text, probability=0.5)
    memory = Memory(layer=1, is_open=True, gate=0.5, strength=0.1, ngrams=[Ngram(text=text, rows=[1, 2], trained=1)])
    step = Step(text=text, moved=2.0, probability=0.5, of_base=0.1, likeliest=likely, likeliest_of_base=likely)
    steps = [Step(text=text), step.model_copy(update={"memories": [memory], "is_answer": True})]
    return Explained(adapter=text, base=text, memory="hashed", latched=False, rendering=text, steps=steps)


def test_anybodys_text_is_shown_and_does_nothing() -> None:
    page = render_explained(hostile())
    assert "<script" not in page
    assert "&lt;script&gt;alert(1)" in page
    assert "\x1b" not in page + coloured(hostile()).plain + in_words(hostile())
    assert "[red]" in coloured(hostile()).plain
    assert len(moved_most(hostile())) == 1


def test_the_command_prints_and_writes_a_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    base = load_base(BASE)
    get_peft_model(base.model, peft_config("engram", ENGRAM, base=base)).save_pretrained(tmp_path / "adapter")
    (tmp_path / "tools.json").write_text(json.dumps([WEATHER]))

    def run(*arguments: object) -> int:
        monkeypatch.setattr(sys, "argv", ["tinyengram", "explain", *map(str, arguments)])
        with pytest.raises(SystemExit) as stopped:
            main()
        return int(stopped.value.code or 0)

    given = [tmp_path / "adapter", TEXT, "--base", BASE]
    code = run(*given, "--tools", tmp_path / "tools.json", "--max-new-tokens", 4, "--page", tmp_path / "why.html")
    said, complaints = capsys.readouterr()
    assert code == 0, complaints
    assert "What moved most" in said
    assert "Page: " in said
    assert "Why the memory spoke" in (tmp_path / "why.html").read_text()
    assert run(*given, "--json") == 0
    assert Explained.model_validate_json(capsys.readouterr().out).memory == "hashed"
    assert run(BASE, TEXT) == 2
    assert "has no memory" in capsys.readouterr().err
