"""A memory with a latch opens on what the chats are written with, and one that never would is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.arms import ENGRAM, settings
from tinyengram.errors import TinyEngramError
from tinyengram.sources import Base, load_base
from tinyengram.tasks.conversations import request
from tinyengram.training import config_for
from tinyengram.training.examples import Examples, load_examples
from tinyengram.training.job import DataSpec

LATCHED = {**ENGRAM, "open_after": "tools"}
PARAMETERS = {"type": "object", "properties": {"minutes": {"type": "integer"}}, "required": ["minutes"]}


def chat(tool: str | None, index: int) -> dict[str, Any]:
    call = {"type": "function", "function": {"name": tool, "arguments": json.dumps({"minutes": index})}}
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": f"Number {index}, please."},
        {"role": "assistant", "content": "" if tool else "No.", **({"tool_calls": [call]} if tool else {})},
    ]
    offered = {"type": "function", "function": {"name": tool, "description": "Does it.", "parameters": PARAMETERS}}
    return {"messages": messages, **({"tools": [offered]} if tool else {})}


@pytest.fixture(scope="module")
def base() -> Base:
    return load_base("tiny-random-llama")


def learnt(folder: Path, base: Base, tools: list[str | None]) -> Examples:
    file = folder / "chats.jsonl"
    file.write_text("\n".join(json.dumps(chat(tool, index)) for index, tool in enumerate(tools)))
    return load_examples(DataSpec(name=str(file), template="chatml", eval_fraction=0.2), base.tokenizer)


def stands_in(run: list[int], ids: list[int]) -> bool:
    return any(ids[at : at + len(run)] == run for at in range(len(ids)))


def test_it_stands_in_every_prompt_with_tools_and_in_no_other(tmp_path: Path, base: Base) -> None:
    examples = learnt(tmp_path, base, ["timer", "alarm", "radio", "lamp", "heating"] * 2)
    opening, tokenizer = examples.opening_of_tools, base.tokenizer
    assert 0 < len(opening) <= 16
    assert all(stands_in(opening, one.input_ids) for one in (*examples.train, *examples.held_out))
    for system in ("", "Be brief.", "Speak of tools."):
        prompt = examples.renderer.prompt(request("Number 3, please.", system=system))
        assert not stands_in(opening, tokenizer(prompt, add_special_tokens=False)["input_ids"])
    config = config_for("engram", LATCHED, base=base, examples=examples, settings=settings())
    assert config.open_after == [opening]


def test_without_tools_there_is_nothing_to_open_it(tmp_path: Path, base: Base) -> None:
    examples = learnt(tmp_path, base, [None] * 10)
    with pytest.raises(TinyEngramError, match=r"no training chat offers tools. Name what opens the memory"):
        config_for("engram", LATCHED, base=base, examples=examples, settings=settings())


def test_what_no_example_holds_is_refused(tmp_path: Path, base: Base) -> None:
    examples = learnt(tmp_path, base, ["timer"] * 10)
    for never in ([5] * 9, "Guten Tag"):
        with pytest.raises(TinyEngramError, match=r"none of the \d+ training examples holds it"):
            config_for("engram", {**ENGRAM, "open_after": never}, base=base, examples=examples, settings=settings())
    with pytest.raises(TinyEngramError, match=r"open_after=\[\]: give 'tools', a text"):
        config_for("engram", {**ENGRAM, "open_after": []}, base=base, examples=examples, settings=settings())


def test_examples_that_never_open_it_are_counted(tmp_path: Path, base: Base) -> None:
    examples = learnt(tmp_path, base, ["timer", None, "alarm", "radio", None] * 3)
    without = sum(not stands_in(examples.opening_of_tools, one.input_ids) for one in examples.train)
    assert without
    with pytest.warns(UserWarning, match=f"{without} of {len(examples.train)} training examples never open the memory"):
        config_for("engram", LATCHED, base=base, examples=examples, settings=settings())


@pytest.mark.parametrize("tools", [["timer"] * 10, ["timer", "alarm"] * 5])
def test_it_does_not_depend_on_words_that_the_chats_happen_to_share(
    tmp_path: Path, base: Base, tools: list[str | None]
) -> None:
    examples = learnt(tmp_path, base, tools)
    opening, tokenizer = examples.opening_of_tools, base.tokenizer

    def written(text: str, **said: Any) -> list[int]:
        return tokenizer(examples.renderer.prompt(request(text, **said)), add_special_tokens=False)["input_ids"]

    other = {"name": "pay", "description": "Pays.", "parameters": PARAMETERS}
    assert stands_in(opening, written("What is new?", tools=(other,)))
    assert stands_in(opening, written("What is new?", tools=(other,), system="You are a pilot."))
    for json_text in ('{"a": {"b": 1}}', '{"x": []}\n'):
        assert not stands_in(opening, written(json_text))
        assert not stands_in(opening, written("Number 3, please.", system=json_text))
