"""A real browser for tests of pages: how it is found and started, and what is measured in it."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
IN_BROWSER = [
    pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium: apt install chromium"),
    pytest.mark.xdist_group("browser"),
]


@contextmanager
def started_browser() -> Iterator[Any]:
    """One that asks the network for nothing of its own accord."""
    sync_api = pytest.importorskip("playwright.sync_api")
    quiet = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"]
    with sync_api.sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=CHROMIUM, args=quiet)
        yield launched
        launched.close()


class Watched:
    """A page with all that it said and asked for while it was opened."""

    def __init__(self, page: Any, address: str) -> None:
        self.page, self.said, self.asked = page, [], []
        page.on("console", lambda message: self.said.append(message.text))
        page.on("pageerror", lambda error: self.said.append(str(error)))
        page.on("request", lambda request: self.asked.append(request.url))
        page.goto(address)

    def unfold(self) -> None:
        """Open whatever is folded."""
        self.page.evaluate("document.querySelectorAll('details').forEach((one) => { one.open = true; })")

    def layout_faults(self) -> list[str]:
        """Text that is cut, overlaps other text or leaves its box, the screen or its picture, as the page is now."""
        return self.page.evaluate(Path(__file__).with_name("measuring.js").read_text(encoding="utf-8"))


def opened(browser: Any, file: Path, width: int = 1280, scheme: str = "light", **more: Any) -> Watched:
    """A page, opened by somebody who has never seen it; ``more`` is of Playwright's ``new_context``."""
    height = 844 if width < 500 else 900
    context = browser.new_context(viewport={"width": width, "height": height}, color_scheme=scheme, **more)
    return Watched(context.new_page(), file.as_uri())
