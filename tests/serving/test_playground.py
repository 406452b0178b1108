"""The playground says what each speaker says by itself, colours what a memory moved, and refuses by a line."""

from __future__ import annotations

import json

import pytest
from peft import get_peft_model

from tests.serving.models import BASE, WEATHER
from tinyengram.report.explained import strength_of
from tinyengram.serving import ServingError, Talk, load_served
from tinyengram.serving.playground import LABELS, Playground, make_page
from tinyengram.serving.speakers import load_speakers
from tinyengram.sources import load_base
from tinyengram.training import peft_config

MESSAGE, TOOLS = "Will it rain in Oslo?", json.dumps([WEATHER])


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Two memories that say different things."""
    made = []
    for number in range(2):
        base = load_base(BASE)
        options = {"layer_ids": [1, 2], "init": "paper", "seed": number}
        model = get_peft_model(base.model, peft_config("engram", options, base=base))
        for name, parameter in model.named_parameters():
            if "value_proj" in name:
                parameter.data.mul_(200 * (number + 1))
        made.append(str(tmp_path_factory.mktemp("adapters") / f"memory-{number}"))
        model.save_pretrained(made[-1])
    return made


@pytest.fixture(scope="module")
def playground(folders: list[str]) -> Playground:
    return Playground(load_speakers(folders, base=BASE), template="tokenizer", strength_of=strength_of)


def alone(folder: str, tools: list) -> str:
    return (
        Talk(load_served(folder, base=BASE if folder != BASE else None), tools=tools, max_new_tokens=6)
        .say(MESSAGE)
        .text
    )


@pytest.mark.parametrize("tools", [[], [WEATHER]])
def test_each_says_what_it_says_alone(playground: Playground, folders: list[str], tools: list) -> None:
    wanted = [*(alone(folder, tools) for folder in folders), alone(BASE, tools)]
    assert len(set(wanted)) == 3
    for _ in range(2):  # Whoever spoke before.
        said = playground.answers(MESSAGE, json.dumps(tools) if tools else "", True, 6)
        assert ["".join(text for text, _ in spans) for spans in said] == wanted
    assert all(label in (None, *LABELS) for spans in said for _, label in spans)
    assert any(label is not None for _, label in said[0])
    assert {label for _, label in said[2]} == {None}


def test_the_page_has_an_answer_for_each(playground: Playground) -> None:
    gradio = pytest.importorskip("gradio", reason="the extra [play] is not installed")
    page = make_page(playground, TOOLS)
    labels = [one.label for one in page.blocks.values() if isinstance(one, gradio.HighlightedText)]
    assert labels == [speaker.id for speaker in playground.speakers]
    assert [one.value for one in page.blocks.values() if isinstance(one, gradio.Code)] == [TOOLS]


def test_switched_off_all_are_the_base(playground: Playground) -> None:
    said = playground.answers(MESSAGE, TOOLS, False, 6)
    assert said[0] == said[1] == said[2] == [(alone(BASE, [WEATHER]), None)]


@pytest.mark.parametrize(
    ("message", "tools", "reason"),
    [
        (" ", "", "message is empty"),
        (MESSAGE, "weather", "no JSON list"),
        (MESSAGE, "[1]", "no JSON list"),
        (MESSAGE, "[" * 100_000, "no JSON list"),
    ],
)
def test_what_cannot_be_asked_is_said(playground: Playground, message: str, tools: str, reason: str) -> None:
    with pytest.raises(ServingError, match=reason):
        playground.answers(message, tools, True, 6)
