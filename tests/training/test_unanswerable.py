"""Prompts to which a call is the wrong answer: each kind is what it says, and the data decide what there is of it."""

from __future__ import annotations

from collections import Counter

import pytest
from pydantic import ValidationError

from tests.arms import settings
from tinyengram.sources import load_tokenizer
from tinyengram.tasks.conversations import Call, Conversation, Turn
from tinyengram.tasks.rendering import Renderer
from tinyengram.training.settings import HELD
from tinyengram.training.unanswerable import HeldPrompt, unanswerable_prompts

TOKENIZER = load_tokenizer("tiny-random-llama")
RENDERER = Renderer(TOKENIZER, template="chatml")
NAMES = ["rain_forecast", "snow_forecast", "pay_bill", "pay_rent", "ring_bell"]


def tool(name: str) -> dict:
    return {"name": name, "description": f"Does {name.replace('_', ' ')}.", "parameters": {"type": "object"}}


def chat(index: int, offered: list[str], called: str, *, answered: bool = False) -> Conversation:
    turns = (
        Turn("system", "Use tools."),
        Turn("user", f"request {index}"),
        Turn("assistant", calls=(Call(called, {}),)),
    )
    if answered:
        turns += (Turn("tool", "sunny", name=called), Turn("assistant", "It is sunny."), Turn("user", "Thanks."))
    return Conversation(f"chats:{index}", turns, tuple(map(tool, offered)), learnt=(2,))


def text(prompt: HeldPrompt) -> str:
    return TOKENIZER.decode(prompt.ids)


def of_kind(conversations: list[Conversation], kind: str, **options) -> list[HeldPrompt]:
    return unanswerable_prompts(conversations, RENDERER, shares={kind: 1.0}, **options)


CHATS = [chat(index, [name], name, answered=index == 1) for index, name in enumerate(NAMES)]


def test_without_tools() -> None:
    prompts = of_kind(CHATS, "no_tools")
    assert len(prompts) == 5
    for prompt in prompts:
        assert text(prompt).endswith("<|im_start|>assistant\n")
        assert "parameters" not in text(prompt)
        assert "Use tools" not in text(prompt)
        assert prompt.bare is None


def test_with_anothers() -> None:
    prompts = of_kind(CHATS, "other_tools")
    assert len(prompts) == 5
    for prompt in prompts:
        index = int(text(prompt).split("request ")[1][0])
        assert "Use tools" in text(prompt)
        assert sum(f'"{name}"' in text(prompt) for name in NAMES) == 1
        assert f'"{NAMES[index]}"' not in text(prompt)
        assert prompt.bare is not None
        assert TOKENIZER.decode(prompt.bare).count("request") == 1
        assert "parameters" not in TOKENIZER.decode(prompt.bare)
    same = [chat(index, ["pay_bill"], "pay_bill") for index in range(4)]
    assert of_kind(same, "other_tools") == []


def test_with_its_own_but_for_the_one_that_is_called() -> None:
    (prompt,) = of_kind([chat(0, ["pay_bill", "ring_bell", "pay_rent"], "pay_bill")], "own_tools_without")
    assert [f'"{name}"' in text(prompt) for name in ("pay_bill", "ring_bell", "pay_rent")] == [False, True, True]
    assert "request 0" in text(prompt)
    assert prompt.bare is not None


def test_of_a_single_tool_those_stand_in_that_are_most_like_it() -> None:
    prompts = {int(text(one).split("request ")[1][0]): text(one) for one in of_kind(CHATS, "own_tools_without")}
    assert sorted(prompts) == list(range(5))
    for index, like in ((0, "snow_forecast"), (1, "rain_forecast"), (2, "pay_rent"), (3, "pay_bill")):
        offered = [name for name in NAMES if f'"{name}"' in prompts[index]]
        assert like in offered
        assert NAMES[index] not in offered
        assert len(offered) == 2
    alone = [chat(index, ["pay_bill"], "pay_bill") for index in range(3)]
    assert of_kind(alone, "own_tools_without") == []


def test_calls_that_stand_in_the_text_are_known_too() -> None:
    written = Turn("assistant", '<functioncall> {"name": "pay_bill", "arguments": {}}', calls_in_text=1)
    turns = (Turn("user", "request 7"), written)
    one = Conversation("a", turns, (tool("pay_bill"), tool("ring_bell")), learnt=(1,))
    (prompt,) = of_kind([one], "own_tools_without")
    assert '"pay_bill"' not in text(prompt)
    assert '"ring_bell"' in text(prompt)


def test_behind_a_result() -> None:
    (prompt,) = of_kind(CHATS, "after_result")
    assert text(prompt).endswith("<|im_start|>assistant\n")
    assert "sunny" in text(prompt)
    assert "It is sunny" not in text(prompt)
    assert prompt.bare is None


def test_shares_and_what_the_data_do_not_have() -> None:
    many = [chat(index, [NAMES[index % 5]], NAMES[index % 5]) for index in range(40)]
    prompts = unanswerable_prompts(many, RENDERER, limit=20)
    assert Counter(one.kind for one in prompts) == {"no_tools": 5, "other_tools": 4, "own_tools_without": 11}
    assert prompts == unanswerable_prompts(many, RENDERER, limit=20)
    assert prompts[:9] == unanswerable_prompts(many, RENDERER, limit=9)
    assert prompts != unanswerable_prompts(many, RENDERER, limit=20, seed=1)
    first = Counter(one.kind for one in prompts[:10])
    assert min(first.values()) >= 2, "kinds are mixed evenly"
    few = unanswerable_prompts(CHATS, RENDERER, limit=64)
    assert Counter(one.kind for one in few) == {
        "no_tools": 5,
        "other_tools": 5,
        "own_tools_without": 5,
        "after_result": 1,
    }


def test_long_prompts_are_left_out() -> None:
    lengths = sorted(len(one.ids) for one in of_kind(CHATS, "other_tools"))
    assert len(of_kind(CHATS, "other_tools", max_length=lengths[2])) == sum(n <= lengths[2] for n in lengths)
    assert of_kind(CHATS, "other_tools", max_length=3) == []


def test_kinds_are_checked() -> None:
    assert settings().hold_kinds == HELD
    assert sum(HELD.values()) == pytest.approx(1)
    for wrong in ({}, {"no_tools": 0.0}):
        with pytest.raises(ValidationError, match="leaves no prompt; give at least one kind"):
            settings(hold_kinds=wrong)
    for wrong in ({"no_tools": -1.0}, {"without": 1.0}):
        with pytest.raises(ValidationError, match="hold_kinds"):
            settings(hold_kinds=wrong)
