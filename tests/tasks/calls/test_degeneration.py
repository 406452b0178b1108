"""Loops and punctuation are degenerate; short, listed, repeated-for-a-reason and foreign answers are prose."""

from __future__ import annotations

import pytest

from tinyengram.tasks.calls.degeneration import is_degenerate, repeated_share

REFUSAL = "I'm sorry, but I don't have the capability to book flights."
CITIES = ("Paris", "Rome", "Berlin", "Madrid", "Oslo", "Lima")


@pytest.mark.parametrize(
    "text",
    [
        "No.",
        "I can't help with that.",
        REFUSAL,
        f"{REFUSAL} {REFUSAL}",
        "42",
        "1111",
        "Hmmmmm",
        "1,000,000,000",
        "ok",
        "no no no",
        "- a\n- b\n- c",
        "\n".join(f"- The weather in {city} is sunny." for city in CITIES),
        "\n".join(f"I can't do {what}." for what in ("this", "that", "anything", "it", "more")),
        ", ".join(f'{{"city": "{city}", "temperature": {20 + len(city)}}}' for city in CITIES),
        "| city | degrees |\n|------|---------|\n" + "\n".join(f"| {city} | {len(city)} |" for city in CITIES),
        " ".join(map(str, range(200))),
        "好的。",
        "抱歉，我无法帮助您完成这个请求。我没有可以预订航班的工具。",
        "عذراً، لا أستطيع المساعدة في ذلك. ليست لدي أداة لحجز الرحلات الجوية.",
        "खेद है, मैं इसमें मदद नहीं कर सकता।",
        "ขออภัย ฉันไม่สามารถช่วยได้ เพราะไม่มีเครื่องมือสำหรับจองเที่ยวบิน",
        "Es tut mir leid, Rindfleischetikettierungsüberwachungsaufgabenübertragungsgesetze kenne ich nicht.",
        "https://example.com/a/very/long/address/that/goes/on?and=on&so=forth",
        "def add(a, b):\n    return a + b\n\n\ndef sub(a, b):\n    return a - b",
    ],
    ids=lambda text: text[:20],
)
def test_prose(text: str) -> None:
    assert not is_degenerate(text)


@pytest.mark.parametrize(
    "text",
    [
        "a" * 12,
        "a" * 5000,
        "the the the the",
        "the " * 100,
        "The answer is " + "the " * 100,
        "ha" * 50,
        "1 1 1 1 1 1 1 1",
        "0" * 300,
        "好的" * 20,
        "我不能。" * 10,
        "!!!!",
        "\n\n\n - - -",
        "---------- a ----------",
        "…",
        "\ufffd" * 20,
        "{" * 500,
        f"{REFUSAL} " * 3,
        f"{REFUSAL} " * 40 + REFUSAL[:17],
        "Well, let me think about it. " + f"{REFUSAL} " * 5,
        "\n".join(f"{step}. You should contact the support team for more information." for step in range(9)),
        "A long start that is never said again, " + "and then " * 40,
        "word " * 3 + "x" * 100_000,
        " ".join(map(str, range(10_000))) + f" {REFUSAL}" * 400,
    ],
    ids=lambda text: text[:20],
)
def test_degenerate(text: str) -> None:
    assert is_degenerate(text)


def test_the_share_is_of_pieces_that_were_there_before() -> None:
    assert repeated_share("") == repeated_share("x" * 19) == repeated_share("x" * 20) == 0.0
    assert repeated_share("x" * 21) == 0.5
    assert repeated_share("0123456789abcdefghij" * 2) == pytest.approx(1 / 21)
    assert repeated_share("é" * 15) == pytest.approx(1 - 2 / 11)
