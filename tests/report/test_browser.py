"""The page in a real browser: nothing is asked for, nothing is cut, everything is reached and read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.report.browsing import IN_BROWSER, opened
from tinyengram.report.page import render_page
from tinyengram.report.palette import DARK, LIGHT
from tinyengram.report.runs import Run, load_run
from tinyengram.study.results import Results

EVIDENCE = Path(__file__).parents[2] / "docs" / "evidence" / "2026-11-pilot"
HOSTILE = "</style><script>document.title='taken'</script>\"'&amp; \u202eright to left\U0001f40d " + "w" * 80


@pytest.fixture(scope="module")
def evidence(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eleven arms and three seeds."""
    file = tmp_path_factory.mktemp("page") / "report.html"
    file.write_text(render_page([load_run(EVIDENCE)]))
    return file


class TestEvidence:
    pytestmark = IN_BROWSER

    @pytest.mark.parametrize("scheme", ["light", "dark"])
    @pytest.mark.parametrize("width", [1280, 1100, 390])
    def test_the_first_screen_holds_the_answer(self, browser: Any, evidence: Path, width: int, scheme: str) -> None:
        watched = opened(browser, evidence, width, scheme)
        page = watched.page
        assert watched.said == []
        assert watched.asked == [evidence.as_uri()]
        screen = page.viewport_size["height"]
        for part in ("h1", ".answer", "#scorecard"):
            assert page.locator(part).bounding_box()["y"] < screen
        if width == 1280:
            box = page.locator("table.scorecard").bounding_box()
            assert box["y"] + box["height"] <= screen, "the whole scorecard is on the first screen"
            assert page.locator("table.scorecard").evaluate("one => one.scrollWidth <= one.parentElement.clientWidth")
        page.context.close()

    @pytest.mark.parametrize("scheme", ["light", "dark"])
    @pytest.mark.parametrize("width", [1280, 390])
    def test_it_can_be_used_by_everybody(self, browser: Any, evidence: Path, width: int, scheme: str) -> None:
        axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
        page = opened(browser, evidence, width, scheme).page
        found = axe.run(page).response["violations"]
        assert [(one["id"], [node["html"][:100] for node in one["nodes"][:2]]) for one in found] == []
        page.context.close()

    def test_its_figures_are_those_of_the_results(self, browser: Any, evidence: Path) -> None:
        page = opened(browser, evidence).page
        results = Results.model_validate_json((EVIDENCE / "results.json").read_text())
        for arm in ("engram", "engram-exact", "osf"):
            rows = [row for row in results.measurements if (row.arm, row.role) == (arm, "matched")]
            mc2 = sum(row.retention["chat"].mc2 for row in rows) / len(rows)
            shown = page.locator(f'[id="mc2-chat.{arm}"]')
            assert shown.inner_text().startswith(f"{100 * mc2:.1f}")
            bar, room = (shown.locator(part).bounding_box()["width"] for part in (".share > span", ".share"))
            assert bar / room == pytest.approx(mc2, abs=0.02)
        assert "●" in page.locator('[id="shift-plain.engram"]').inner_text()
        assert page.locator('[id="mc2-plain.control-shuffled"]').inner_text().strip() == "–"
        page.context.close()

    def test_without_a_script_everything_is_there(self, browser: Any, evidence: Path) -> None:
        page = opened(browser, evidence, java_script_enabled=False).page
        assert "No difference in MC2 is shown" in page.locator(".answer").inner_text()
        assert page.locator("table.scorecard tbody tr").count() > 15
        assert not page.locator("#copy-link").is_visible()
        page.context.close()

    def test_keys_open_a_figure_and_hide_an_arm_and_the_address_keeps_it(self, browser: Any, evidence: Path) -> None:
        page = opened(browser, evidence).page
        cell = page.locator('[id="mc2-chat.engram"] button')
        cell.focus()
        page.keyboard.press("Enter")
        details = page.locator('[id="mc2-chat.engram.more"]')
        assert "Against lora at matched loss" in details.inner_text()
        page.keyboard.press("Escape")
        assert not details.is_visible()
        page.locator('[data-toggles="osf"]').focus()
        page.keyboard.press("Space")
        marks = page.locator('svg.wide [data-arm="osf"]')
        assert marks.count() > 3
        assert not any(marks.nth(at).is_visible() for at in range(marks.count()))
        page.reload()
        assert page.locator('[data-toggles="osf"]').get_attribute("aria-pressed") == "false"
        page.context.close()

    def test_an_anchor_leads_to_its_figure_also_on_a_phone(self, browser: Any, evidence: Path) -> None:
        page = opened(browser, evidence, 390).page
        page.goto(f"{evidence.as_uri()}#mc2-plain.engram")
        page.wait_for_function("scrollY > 0")
        box = page.locator('[id="card.mc2-plain.engram"]').bounding_box()
        assert 0 <= box["y"] < 844
        page.context.close()

    def test_it_is_small_and_soon_seen(self, browser: Any, evidence: Path) -> None:
        assert evidence.stat().st_size <= 1_500_000
        page = opened(browser, evidence).page
        painted = (
            "performance.getEntriesByType('paint').find((one) => one.name === 'first-contentful-paint')?.startTime"
        )
        page.wait_for_function(painted)
        assert page.evaluate(painted) < 2000, "half a second on an idle machine"
        assert page.pdf()
        page.context.close()


class TestHostile:
    pytestmark = IN_BROWSER

    def test_names_are_shown_as_text(self, browser: Any, results: Results, tmp_path: Path) -> None:
        results.study.arms = {"lora": results.study.arms["lora"], HOSTILE: results.study.arms["engram"]}
        results.study.description = results.finding = HOSTILE
        for one in (*results.measurements, *results.trajectories, *results.comparisons):
            if one.arm == "engram":
                one.arm = HOSTILE
            if getattr(one, "matched_with", None) == "engram":
                one.matched_with = HOSTILE  # type: ignore[union-attr]
        file = tmp_path / "report.html"
        file.write_text(render_page([Run(tmp_path, results)]))
        for width in (1280, 390):
            watched = opened(browser, file, width)
            page = watched.page
            assert watched.said == []
            assert "taken" not in page.title()
            assert page.locator("script").count() == 1
            assert HOSTILE in page.locator("table.scorecard thead").text_content().replace("\u200b", "")
            page.context.close()


def contrast(one: str, other: str) -> float:
    """WCAG 2.1's ratio of two colours."""

    def luminance(colour: str) -> float:
        parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
        red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
        return 0.2126 * red + 0.7152 * green + 0.0722 * blue

    darker, lighter = sorted((luminance(one), luminance(other)))
    return (lighter + 0.05) / (darker + 0.05)


@pytest.mark.parametrize(("colours", "card"), [(LIGHT, "#ffffff"), (DARK, "#1b1f24")])
def test_marks_and_names_stand_out_from_the_card(colours: tuple[str, ...], card: str) -> None:
    assert min(contrast(colour, card) for colour in colours) >= 4.5
