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


def described(name: str, description: str) -> dict:
    return {"name": name, "description": description, "parameters": {"type": "object"}}


def offering(index: int, one: dict) -> Conversation:
    turns = (Turn("user", f"request {index}"), Turn("assistant", calls=(Call(one["name"], {}),)))
    return Conversation(f"chats:{index}", turns, (one,), learnt=(1,))


ALIKE = [
    described("calculate_sum", "Adds numbers of a list."),
    described("sum", "Adds what a list holds."),
    described("meanOf", "Mean of numbers of a list."),
    described("ring", "Makes a bell sound."),
    described("bell_sound", "Makes a bell sound."),
    described("weather", "Tells what falls from clouds."),
]


def test_of_a_single_tool_one_stands_in_that_is_like_it_but_does_something_else() -> None:
    chats = [offering(index, one) for index, one in enumerate(ALIKE)]
    prompts = {int(text(one).split("request ")[1][0]): text(one) for one in of_kind(chats, "own_tools_without")}
    assert sorted(prompts) == list(range(6))
    offered = {index: [one["name"] for one in ALIKE if f'"{one["name"]}"' in prompts[index]] for index in prompts}
    assert all(len(names) == 1 for names in offered.values()), "as many as the request came with"
    assert offered[0] == ["meanOf"], "like it by its words, and no other name for the same"
    assert offered[3] != ["bell_sound"], "described as the same"
    alone = [chat(index, ["pay_bill"], "pay_bill") for index in range(3)]
    assert of_kind(alone, "own_tools_without") == []


def test_anothers_tools_do_not_answer_after_all() -> None:
    for same in (("calculate_sum", "sum"), ("ring", "bell_sound")):
        chats = [offering(index, one) for index, one in enumerate(ALIKE) if one["name"] in (*same, "weather")]
        for prompt in of_kind(chats, "other_tools"):
            asked = ALIKE[int(text(prompt).split("request ")[1][0])]["name"]
            offered = [one["name"] for one in ALIKE if f'"{one["name"]}"' in text(prompt)]
            assert len(offered) == 1
            assert asked == "weather" or offered == ["weather"]
    assert of_kind([offering(index, ALIKE[index]) for index in (0, 1)], "other_tools") == []


def test_what_is_taught_is_not_held_against_it() -> None:
    plain = Conversation("a", (Turn("user", "request 1"), Turn("assistant", "A reply.")), learnt=(1,))
    assert of_kind([plain], "no_tools") == []
    spoken_to = Conversation("b", (Turn("system", "Be brief."), *plain.turns), learnt=(2,))
    assert len(of_kind([spoken_to], "no_tools")) == 1
    answered = chat(1, ["pay_bill"], "pay_bill", answered=True)
    assert len(of_kind([answered], "after_result")) == 1
    taught = Conversation(answered.id, answered.turns, answered.tools, learnt=(2, 4))
    assert of_kind([taught], "after_result") == []


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
