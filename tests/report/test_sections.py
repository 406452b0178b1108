"""Answers that changed and calls side by side, filled, as somebody uses them in a browser."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.report.browsing import IN_BROWSER, opened
from tests.report.filled import QUESTIONS, filled
from tinyengram.report.page import render_page
from tinyengram.study.results import Results

pytestmark = IN_BROWSER


@pytest.fixture
def file(results: Results, tmp_path: Path) -> Path:
    place = tmp_path / "report.html"
    place.write_text(render_page([filled(tmp_path, results)]), encoding="utf-8")
    return place


def titles(page: Any, section: str) -> list[str]:
    """Of the cards that are shown, in their order."""
    return page.locator(f"#{section}-list > details:not([hidden]) .sides-title").all_text_contents()


def test_answers_are_sorted_found_and_filtered_and_the_address_says_how(browser: Any, file: Path) -> None:
    page = opened(browser, file).page
    asked_twice = 2 * len(QUESTIONS)
    assert len(titles(page, "answers")) == asked_twice
    page.fill("#answers-filters [name=find]", "SKY blue")
    assert titles(page, "answers") == ["Why is the sky blue?"] * 2
    assert page.locator("#answers-count").inner_text().startswith(f"2 of the {asked_twice} on this page.")
    page.select_option("#answers-filters [name=prompt]", "chat")
    assert len(titles(page, "answers")) == 1
    assert "answers-find=SKY+blue" in page.url
    assert "answers-prompt=chat" in page.url

    again = opened(browser, Path(page.url.removeprefix("file://").partition("#")[0])).page
    again.goto(page.url)
    assert titles(again, "answers") == ["Why is the sky blue?"]
    again.context.close()

    page.fill("#answers-filters [name=find]", "")
    page.check("#answers-filters [name=only]")
    assert len(titles(page, "answers")) == len(QUESTIONS) - 1, "LoRA kept its answer to the first alone"
    page.select_option("#answers-filters [name=arm]", "engram")
    assert titles(page, "answers") == ["Who wrote the Iliad?"]
    page.locator("#answers-list > details:not([hidden])").evaluate_all(
        "all => all.forEach((one) => { one.open = true; })"
    )
    heads = page.locator("#answers-list > details:not([hidden]) thead th:visible")
    assert heads.all_inner_texts() == ["Choice", "base", "engram"]
    page.context.close()


def test_the_biggest_movers_of_the_arm_that_is_looked_at_come_first(browser: Any, file: Path) -> None:
    page = opened(browser, file).page
    page.select_option("#answers-filters [name=prompt]", "plain")
    assert titles(page, "answers")[0] == "Who wrote the Iliad?"
    page.select_option("#answers-filters [name=sort]", "asked")
    assert [title.replace("\u200b", "")[:15] for title in titles(page, "answers")[:2]] == [
        text[:15] for text in QUESTIONS[:2]
    ]
    page.select_option("#answers-filters [name=sort]", "")
    page.select_option("#answers-filters [name=arm]", "lora")
    moved = page.locator("#answers-list > details:not([hidden])").evaluate_all(
        "all => all.map((one) => Number(one.dataset.moved.trim().split(' ')[1]))"
    )
    assert moved == sorted(moved, reverse=True)
    assert moved[0] > moved[-1]
    page.context.close()


def test_calls_are_filtered_by_what_became_of_them(browser: Any, file: Path) -> None:
    page = opened(browser, file).page
    assert len(titles(page, "calls")) == 3
    for value, shown in (("differs", [1, 2]), ("wrong", [1, 2]), ("declines", [2])):
        every = titles(page, "calls")
        page.check(f"#calls-filters [value={value}]")
        assert titles(page, "calls") == [every[at] for at in shown]
        assert f"calls-only={value}" in page.url
        page.uncheck(f"#calls-filters [value={value}]")
    page.click("#calls-filters [name=open]")
    assert page.locator("#calls-list > details[open]").count() == 3
    page.click("#calls-filters [name=open]")
    assert page.locator("#calls-list > details[open]").count() == 0
    page.context.close()


def test_shares_are_those_of_the_likelihoods(browser: Any, file: Path) -> None:
    page = opened(browser, file).page
    card = page.locator("#answers-list > details", has_text="Who wrote the Iliad?").first
    shares = card.locator("tbody tr").first.locator("td").all_text_contents()
    assert shares == ["88%", "25%", "12%"]  # 1 / (1 + e^-2), 1 / (1 + e^1.1) and 1 / (1 + e^2).
    assert card.locator("tfoot tr").first.locator("td").all_text_contents() == ["✓ right", "✗ wrong", "✗ wrong"]
    page.context.close()
