"""``tinyengram data``: what would be learnt of a file and what would not, before anything is trained."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

TOOL = {
    "name": "weather",
    "description": "The weather.",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
}


def call(city: str) -> dict:
    return {"type": "function", "function": {"name": "weather", "arguments": json.dumps({"city": city})}}


ROWS = [
    {
        "messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "Rome and Oslo?"},
            {
                "role": "assistant",
                "content": None,
                "tool_calls": [call("Rome") | {"id": "a"}, call("Oslo") | {"id": "b"}],
            },
            {"role": "tool", "tool_call_id": "a", "content": "sunny"},
            {"role": "tool", "tool_call_id": "b", "content": "rain"},
            {"role": "assistant", "content": "Rome is sunny, [red]Oslo[/red] wet."},
        ],
        "tools": [{"type": "function", "function": TOOL}],
    },
    {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello.", "tool_calls": []}]},
    {"messages": [{"role": "user", "content": "Nobody answers."}]},
    {"messages": [{"role": "user", "content": "Long?"}, {"role": "assistant", "content": "very " * 400}]},
]


def run(*arguments: object, cache: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "TINYENGRAM_CACHE": str(cache), "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-m", "tinyengram", "data", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=120)


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data") / "chats.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return path


def test_the_account_adds_up(file: Path, cache: Path) -> None:
    done = run(file, "--base", "tiny-random-llama", "--max-length", 1900, "--json", cache=cache)
    assert done.returncode == 0, done.stderr
    account = json.loads(done.stdout)
    assert list(account) == ["format", "rows", "conversations", "learnt", "left_out", "rendering"]
    assert account["format"] == "openai"
    assert account["rows"] == 4
    assert account["conversations"] + count(account, "rows") == 4
    assert account["learnt"]["turns"] + count(account, "turns") == 4
    assert account["learnt"]["calls"] + count(account, "calls") == 2
    assert account["learnt"]["turns"] == 3
    assert account["learnt"]["calls"] == 2
    reasons = {(one["what"], one["reason"], one["first"]) for one in account["left_out"]}
    assert reasons == {
        ("rows", "no assistant turn", f"{file.name}:3"),
        ("turns", "longer than max_length=1900 tokens", f"{file.name}:4"),
    }
    assert "as text (Hermes)" in account["rendering"]


def count(account: dict, what: str) -> int:
    return sum(one["count"] for one in account["left_out"] if one["what"] == what)


def test_what_is_learnt_is_marked_as_the_model_will_see_it(file: Path, cache: Path) -> None:
    shown = run(file, "--base", "tiny-random-llama", "--show", 1, cache=cache).stdout
    assert f"example 1: {file.name}:1" in " ".join(shown.split())
    assert '⟦<tool_call>\n{"name": "weather", "arguments": {"city": "Rome"}}' in shown
    assert "⟦Rome is sunny, [red]Oslo[/red] wet.<|im_end|>⟧" in shown
    assert "⟦sunny" not in shown


def test_without_a_base_it_is_read_but_not_written(file: Path, cache: Path) -> None:
    account = json.loads(run(file, "--json", "--learn", "calls", cache=cache).stdout)
    assert account["learnt"] == {"turns": 1, "calls": 2, "tokens": None, "examples": None}
    assert account["rendering"] is None
    assert count(account, "rows") == 3


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["{file}", "--learn", "some"], ["learn='some'", "Choose one of: all, calls, last"]),
        (["{file}", "--format", "opanai"], ["'opanai'", "Did you mean 'openai'?"]),
        (["{file}", "--format", "xlam"], ["chats.jsonl:1", "openai"]),
        (["{file}", "--base", "no-such-base"], ["no-such-base", "(1)", "(3)"]),
        (["{file}", "--template", "chat-ml"], ["'chat-ml'", "Did you mean 'chatml'?"]),
        (["nowhere.jsonl"], ["nowhere.jsonl", "does not exist"]),
    ],
)
def test_bad_input_ends_in_a_line_with_value_and_remedy(
    file: Path, cache: Path, arguments: list[str], parts: list[str]
) -> None:
    refused = run(*(argument.format(file=file) for argument in arguments), cache=cache)
    assert refused.returncode == 2, refused.stderr
    assert "Traceback" not in refused.stderr
    for part in parts:
        assert part in refused.stderr
