"""Formats are told by several rows; what is unclear or mixed is refused with the way out."""

from __future__ import annotations

from typing import Any

import pytest

from tests.tasks.formats.chats import EVERY, hermes, openai, sharegpt, toolace, xlam
from tinyengram.sources import Row
from tinyengram.tasks.errors import TaskError
from tinyengram.tasks.formats import FORMATS, READERS, detect, formats_of, known_format

PLAIN = {"conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]}
PLAIN_ROLES = {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}


def rows(*values: dict[str, Any]) -> list[Row]:
    return [Row(f"f.jsonl:{line}", row) for line, row in enumerate(values, start=1)]


@pytest.mark.parametrize("format", [format for format in EVERY if format != "glaive-experiment"])
def test_each_format_is_told_by_one_row(format: str) -> None:
    assert detect(rows(EVERY[format]), "f.jsonl") == format
    assert formats_of(EVERY[format]) == (format,)


@pytest.mark.parametrize(
    ("values", "format"),
    [
        ([PLAIN], "sharegpt"),
        ([PLAIN_ROLES], "openai"),
        ([PLAIN, PLAIN, hermes()], "hermes"),
        ([PLAIN, toolace(), PLAIN], "toolace"),
        ([PLAIN, sharegpt()], "sharegpt"),
        ([PLAIN_ROLES, openai()], "openai"),
        ([{"foo": 1}, xlam()], "xlam"),
    ],
)
def test_plain_chats_go_with_the_rows_that_show_more(values: list, format: str) -> None:
    assert detect(rows(*values), "f.jsonl") == format


@pytest.mark.parametrize(("speaker", "format"), [("human", "sharegpt"), ("gpt", "toolace")])
def test_an_expression_shows_toolace_where_the_assistant_writes_it(speaker: str, format: str) -> None:
    turns = [*PLAIN["conversations"], {"from": speaker, "value": "[f(a=1)]"}]
    assert detect(rows({"conversations": turns}), "f.jsonl") == format


def test_hermes_text_under_messages() -> None:
    messages = [{"role": turn["from"], "content": turn["value"]} for turn in hermes()["conversations"]]
    assert formats_of({"messages": messages}) == ("hermes",)


@pytest.mark.parametrize(
    ("values", "parts"),
    [
        ([PLAIN, hermes(), sharegpt()], ("f.jsonl:2 is hermes", "f.jsonl:3 is sharegpt")),
        ([xlam(), openai()], ("f.jsonl:1 is xlam", "f.jsonl:2 is openai")),
        ([PLAIN, PLAIN_ROLES], ("f.jsonl:1 is sharegpt", "f.jsonl:2 is openai")),
    ],
)
def test_mixed_formats_are_refused_with_the_first_row_of_each(values: list, parts: tuple[str, ...]) -> None:
    with pytest.raises(TaskError) as error:
        detect(rows(*values), "f.jsonl")
    for part in ("f.jsonl mixes formats", *parts, "Split it", "give format"):
        assert part in str(error.value)


@pytest.mark.parametrize(
    ("values", "names"),
    [
        ({**xlam(), **openai()}, "xlam and openai"),
        ({"output": "o", **PLAIN_ROLES}, "instruction and openai"),
        ({"output": "o", "system": "s", "chat": "USER: a"}, "glaive and instruction"),
    ],
)
def test_a_row_that_fits_two_is_refused_naming_both(values: dict, names: str) -> None:
    with pytest.raises(TaskError, match=f"f.jsonl:1 fits {names}. Give format"):
        detect(rows(values), "f.jsonl")


def test_rows_of_no_known_shape_are_refused_with_their_keys() -> None:
    with pytest.raises(TaskError, match=r"f.jsonl:1 has the keys 'foo'; expected openai"):
        detect(rows({"foo": 1}), "f.jsonl")


def test_single_messages_are_told_what_they_lack() -> None:
    with pytest.raises(TaskError, match="It looks like one message"):
        detect(rows({"role": "user", "content": "a"}), "f.jsonl")


def test_names() -> None:
    assert {known_format(name) for name in ("messages", "trl", "openai")} == {"openai"}
    assert set(FORMATS) == {"auto", "bfcl", *READERS}
    with pytest.raises(TaskError, match=r"'sharegtp' is unknown\. Did you mean 'sharegpt'"):
        known_format("sharegtp")
