"""A look at a file reads it as training would, whatever its size, and shows some of it fairly."""

from __future__ import annotations

import json
import tracemalloc
from pathlib import Path

import pytest

from tests.tasks.formats.chats import openai
from tinyengram.sources import load_tokenizer
from tinyengram.tasks.chat_data import load_conversations
from tinyengram.tasks.errors import TaskError
from tinyengram.tasks.preview import preview
from tinyengram.tasks.rendering import Renderer, encode_all


def write(file: Path, count: int) -> str:
    """A file of so many different chats of two kilobytes each."""
    with file.open("w") as lines:
        for number in range(count):
            text = f"{number} " * (2000 // (len(str(number)) + 1))
            chat = [{"role": "user", "content": "Count."}, {"role": "assistant", "content": text}]
            lines.write(json.dumps({"messages": chat}) + "\n")
    return str(file)


def peak(name: str) -> int:
    tracemalloc.start()
    try:
        preview(name, show=3)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_memory_does_not_grow_with_the_file(tmp_path: Path) -> None:
    small, large = write(tmp_path / "small.jsonl", 1000), write(tmp_path / "large.jsonl", 8000)
    peak(small)  # What is imported on the way counts for neither.
    assert peak(large) < 1.2 * peak(small) < 8_000_000


def test_counts_are_those_of_training(tmp_path: Path) -> None:
    file = tmp_path / "chats.jsonl"
    file.write_text(json.dumps(openai()) + "\n" + Path(write(tmp_path / "more.jsonl", 9)).read_text())
    tokenizer = load_tokenizer("tiny-random-llama")
    seen = preview(str(file), tokenizer=tokenizer, max_length=3000)
    trained = encode_all(load_conversations(str(file)).conversations, Renderer(tokenizer), max_length=3000)
    assert (seen.turns, seen.calls, seen.examples) == (trained.turns, trained.calls, len(trained.examples))
    assert seen.tokens == sum(sum(example.answer_mask) for example in trained.examples)
    assert seen.tokens == trained.tokens


def test_examples_are_shown_from_everywhere_and_the_same_each_time(tmp_path: Path) -> None:
    name, tokenizer = write(tmp_path / "chats.jsonl", 60), load_tokenizer("tiny-random-llama")
    first, again = (preview(name, tokenizer=tokenizer, show=5, max_length=4000).shown_ids for _ in range(2))
    assert first == again
    lines = [int(where.rpartition(":")[2]) for where in first]
    assert lines == sorted(lines)
    assert len(set(lines)) == 5
    assert lines[-1] > 20
    assert preview(name, tokenizer=tokenizer, show=0, max_length=4000).shown == []
    assert len(preview(name, tokenizer=tokenizer, show=99, max_length=4000).shown) == 60


def test_where_everything_is_too_long_it_says_so(tmp_path: Path) -> None:
    name, tokenizer = write(tmp_path / "chats.jsonl", 3), load_tokenizer("tiny-random-llama")
    with pytest.raises(TaskError, match="max_length=20 is shorter than every one of the 3 examples"):
        preview(name, tokenizer=tokenizer, max_length=20)


def test_too_few_to_hold_any_out_are_remarked_on(tmp_path: Path) -> None:
    assert "only one conversation" in preview(write(tmp_path / "one.jsonl", 1)).remarks[0]
    assert "Only 2 of 12" in preview(write(tmp_path / "few.jsonl", 12)).remarks[0]
    assert preview(write(tmp_path / "many.jsonl", 60)).remarks == []
