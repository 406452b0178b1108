"""What arms share is accounted for to the last turn and call, and what is asked is what was held out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.tasks.formats.chats import openai
from tinyengram.scoring.calls import requests_for_calls
from tinyengram.study.material import Material, data_in_words, prepare
from tinyengram.study.plan import StudyError, load_study, presets
from tinyengram.tasks.chat_data import load_conversations


def material(tmp_path: Path, count: int, **changes: Any) -> tuple[Material, str]:
    """Of so many copies of one chat with three learnt turns and calls in the first two of them."""
    file = tmp_path / "chats.jsonl"
    file.write_text((json.dumps(openai()) + "\n") * count)
    content = yaml.safe_load(presets()["smoke"].read_text())
    folder = presets()["smoke"].parent
    content["data"] = {"name": str(file), "max_length": 4000, **changes}
    for section in ("truthfulqa", "drift"):
        content[section]["name"] = str(folder / content[section]["name"])
    content["accuracy"] = []
    study = tmp_path / "study.yaml"
    study.write_text(yaml.safe_dump(content))
    plan = load_study(str(study))
    return prepare(plan.base, plan.data, plan.probes), str(file)


@pytest.mark.parametrize("changes", [{}, {"eval_limit": 2}, {"train_limit": 5, "eval_limit": 1}, {"max_length": 1900}])
def test_learnt_held_out_and_left_out_are_everything(tmp_path: Path, changes: dict) -> None:
    found, file = material(tmp_path, 12, **changes)
    account, everything = found.account, load_conversations(file)

    def left_out(what: str) -> int:
        return sum(one.count for one in account.left_out if one.what == what)

    assert account.learnt_turns + account.held_out_turns + left_out("turns") == everything.learnt_turns
    assert account.learnt_calls + account.held_out_calls + left_out("calls") == everything.learnt_calls
    assert account.rows == account.conversations + left_out("rows")
    assert len({(one.what, one.reason) for one in account.left_out}) == len(account.left_out)
    told = " ".join(data_in_words(account))
    for part in (f"{account.rows} rows read as openai", "Rendering: ", *(one.reason for one in account.left_out)):
        assert part in told


def test_calls_are_asked_for_where_they_were_held_out_and_nowhere_else(tmp_path: Path) -> None:
    whole, _ = material(tmp_path, 12)
    per_chat = len(requests_for_calls(whole.examples.held_out_conversations[:1], "hermes"))
    cut, _ = material(tmp_path, 12, max_length=1900)
    held = {(example.conversation, turn) for example in cut.examples.held_out for turn in example.turns}
    asked = requests_for_calls(cut.examples.held_out_conversations, "hermes")
    assert {(one.conversation.id, one.turn) for one in asked} <= held
    assert 0 < len(asked) <= per_chat * len(cut.examples.held_out_conversations)
    trained = {one.id for one in cut.examples.conversations}
    assert not trained & {one.conversation.id for one in asked}


def test_a_limit_on_the_texts_for_the_loss_is_none_on_the_calls(tmp_path: Path) -> None:
    whole, _ = material(tmp_path, 12)
    limited, _ = material(tmp_path, 12, eval_limit=1)
    assert len(limited.examples.held_out) == 1 < len(whole.examples.held_out)
    asked = requests_for_calls(limited.examples.held_out_conversations, "hermes")
    assert asked == requests_for_calls(whole.examples.held_out_conversations, "hermes")
    assert len(asked) == 4, "as many as the study wants"
    assert not [one for one in limited.account.remarks if "wanted calls" in one]
    few, _ = material(tmp_path, 5)
    assert few.account.remarks[-1] == "Of 4 wanted calls (calls.wanted) 2 are asked for: no more are held out."


def test_the_tools_of_a_prompt_are_those_of_a_held_out_chat(tmp_path: Path) -> None:
    found, _ = material(tmp_path, 12)
    tools = [tool["name"] for tool in found.examples.held_out_conversations[0].tools]
    assert tools
    assert found.examples.renderer.call_format == "hermes"


def test_an_unknown_format_is_named_with_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(StudyError, match=r"data.format.*'opanai'.*Did you mean 'openai'"):
        material(tmp_path, 3, format="opanai")
