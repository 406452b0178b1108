"""What holds of every page, whatever was run and however it is named, in a real browser."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.report.browsing import IN_BROWSER, opened
from tests.report.filled import filled
from tinyengram.report.page import render_page
from tinyengram.report.runs import Run, load_run
from tinyengram.study.results import Results
from tinyengram.tasks.left_out import LeftOut

EVIDENCE = Path(__file__).parents[2] / "docs" / "evidence" / "2026-11-pilot"
KINDS = ("one seed", "evidence", "evaluation", "joined", "hostile", "filled")
WIDTHS = (1280, 1100, 390)
HOSTILE = (
    "<script>window.taken = 1</script>",
    "</style></script><img src=x onerror=window.taken=1>",
    "a\"b'c`d&amp;",
    "\u202eשלום right to left",
    "w" * 200,
    "\N{SNAKE}\N{WOMAN}\N{ZERO WIDTH JOINER}\N{MICROSCOPE} snake",
)
pytestmark = IN_BROWSER


def made_hostile(many: Results) -> Results:
    """The same with names and texts that are no harmless words."""
    names = dict(zip(("up", "flat", "down", "steep", "never"), HOSTILE, strict=False))
    many.study.arms = {names.get(arm, arm): section for arm, section in many.study.arms.items()}
    for one in (*many.measurements, *many.trajectories, *many.comparisons):
        one.arm = names.get(one.arm, one.arm)
        if (matched := getattr(one, "matched_with", None)) is not None:
            one.matched_with = names.get(matched, matched)  # type: ignore[union-attr]
    many.study.name, many.study.description = HOSTILE[4], "\n".join(HOSTILE)
    many.data.question_label, many.data.rendering = "".join(HOSTILE[:2]), HOSTILE[4]
    many.data.format, many.data.remarks = "x", list(HOSTILE)
    many.data.left_out = [LeftOut(what="rows", reason=text, count=1, first=text) for text in HOSTILE]
    return many


@pytest.fixture
def file(kind: str, request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A page of the kind."""
    made = request.getfixturevalue
    if kind == "one seed":
        runs = [Run(tmp_path, made("many"))]
    elif kind == "evidence":
        runs = [load_run(EVIDENCE)]
    elif kind == "evaluation":
        runs = [Run(tmp_path, made("evaluation"))]
    elif kind == "joined":
        again = made("results").model_copy(deep=True)
        runs = [Run(tmp_path / "a", made("results")), Run(tmp_path / "b", again), Run(tmp_path, made("evaluation"))]
    elif kind == "filled":
        runs = [filled(tmp_path, made("results"))]
    else:
        runs = [Run(tmp_path, made_hostile(made("many")))]
    place = tmp_path / "report.html"
    place.write_text(render_page(runs), encoding="utf-8")
    return place


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_is_asked_for_cut_or_overlapping(browser: Any, file: Path, kind: str) -> None:
    for width in WIDTHS:
        watched = opened(browser, file, width)
        assert (watched.said, watched.asked) == ([], [file.as_uri()])
        assert watched.page.evaluate("window.taken") is None
        for scheme in ("light", "dark"):
            watched.page.emulate_media(color_scheme=scheme)
            assert watched.layout_faults() == [], f"folded, {width}, {scheme}"
        watched.unfold()
        assert watched.layout_faults() == [], f"unfolded, {width}"
        watched.page.context.close()


# The evidence's eleven arms take axe long: as they open they are looked at by test_browser.
@pytest.mark.parametrize(
    ("kind", "width"),
    [
        *(("one seed", 1280), ("evaluation", 390), ("joined", 1280), ("hostile", 390), ("filled", 390)),
        *(pytest.param(*one, marks=pytest.mark.slow) for one in (("one seed", 390), ("evaluation", 1280))),
        *(pytest.param(kind, 390 if kind == "joined" else 1280, marks=pytest.mark.slow) for kind in KINDS[3:]),
    ],
)
def test_axe_finds_nothing_in_what_is_folded_either(browser: Any, file: Path, width: int, kind: str) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    watched = opened(browser, file, width)
    watched.unfold()
    # Of the dark scheme only the contrast is another.
    for scheme, options in (
        ("light", {"resultTypes": ["violations"]}),
        ("dark", {"runOnly": ["color-contrast"], "resultTypes": ["violations"]}),
    ):
        watched.page.emulate_media(color_scheme=scheme)
        found = axe.run(watched.page, options=options).response["violations"]
        assert [(one["id"], [node["html"][:100] for node in one["nodes"][:2]]) for one in found] == []
    watched.page.context.close()


@pytest.mark.parametrize("kind", KINDS)
def test_without_a_script_nothing_that_can_be_pressed_does_nothing(browser: Any, file: Path, kind: str) -> None:
    with_script, without = opened(browser, file), opened(browser, file, java_script_enabled=False)
    idle = without.page.locator("button:visible:not([popovertarget]), input:visible, select:visible")
    assert idle.all_inner_texts() == []
    for part in ("#scorecard table", "#figures td", "#run", ".legend"):
        texts = [one.page.locator(part).all_text_contents() for one in (without, with_script)]
        assert texts[0] == texts[1]
    without.page.context.close()
    with_script.page.context.close()


@pytest.mark.parametrize("kind", ["hostile"])
def test_what_is_hostile_is_shown_as_it_is(browser: Any, file: Path, kind: str) -> None:
    page = opened(browser, file).page
    named = page.locator("table.scorecard thead th[data-arm]").evaluate_all("all => all.map((one) => one.dataset.arm)")
    shown = page.locator("table.scorecard thead th[data-arm]").all_text_contents()
    assert [text.strip().replace("\u200b", "") for text in shown] == named == ["base", "lora", *HOSTILE[:5]]
    run = page.locator("#run").text_content()
    assert [text for text in HOSTILE if run.count(text) < 3] == []
    assert page.locator("script").count() == page.locator("style").count() == 1
    page.context.close()


@pytest.mark.parametrize("kind", ["one seed", "evaluation", "filled"])
@pytest.mark.parametrize("width", [1280, 390])
def test_the_tab_key_reaches_whatever_can_be_pressed(browser: Any, file: Path, width: int, kind: str) -> None:
    page = opened(browser, file, width).page
    many = page.evaluate(
        """() => { window.reached = new Set(); addEventListener("focusin", (event) => reached.add(event.target));
        window.wanted = [...document.querySelectorAll("a, button, summary, input, select, [tabindex='0']")]
          .filter((one) => one.checkVisibility() && !one.closest("[popover]"));
        return wanted.length; }"""
    )
    assert many > 10
    for _ in range(many + 2):
        page.keyboard.press("Tab")
    assert page.evaluate("wanted.filter((one) => !reached.has(one)).map((one) => one.outerHTML.slice(0, 100))") == []
    page.context.close()


@pytest.mark.parametrize("kind", ["evidence"])
def test_every_figure_is_that_of_the_results(browser: Any, file: Path, kind: str) -> None:
    results = Results.model_validate_json((EVIDENCE / "results.json").read_text())
    page = opened(browser, file).page
    cells = page.locator("table.scorecard td[data-arm]").evaluate_all(
        """all => all.map((one) => { const bar = one.querySelector(".share");
        return [one.id, one.querySelector(".figure").firstChild.textContent.trim(),
          bar && bar.firstElementChild.getBoundingClientRect().width / bar.getBoundingClientRect().width]; })"""
    )
    shown = {id: (text, bar) for id, text, bar in cells}
    reads = {
        "loss-answer": lambda row: row.eval_loss_answer,
        "loss-whole": lambda row: row.eval_loss_whole,
        "right-calls": lambda row: 100 * row.calls.right,
        "declines": lambda row: 100 * row.calls.refrains,
        "kl": lambda row: row.drift.kl if row.drift.kl else None,
    }
    for prompt in results.study.truthfulqa.prompts:
        slug = prompt.replace(" ", "-")
        reads[f"mc1-{slug}"] = lambda row, prompt=prompt: 100 * row.retention[prompt].mc1
        reads[f"mc2-{slug}"] = lambda row, prompt=prompt: 100 * row.retention[prompt].mc2
        reads[f"shift-{slug}"] = lambda row, prompt=prompt: row.retention[prompt].shift
        reads[f"arc-easy-{slug}"] = lambda row, prompt=prompt: 100 * row.accuracy["arc-easy"][prompt].acc_norm
    arms = ("base", *results.study.arms)
    assert shown.keys() == {f"{line}.{arm}" for line in reads for arm in arms}
    for line, read in reads.items():
        values = {}
        for arm in arms:
            role = "base" if arm == "base" else "last" if arm == results.study.reference else "matched"
            found = [read(row) for row in results.measurements if (row.arm, row.role) == (arm, role)]
            if found and found[0] is not None:
                values[arm] = sum(found) / len(found)
        longest = (
            100 if shown[f"{line}.lora"][0].endswith("%") or "mc" in line or "arc" in line else max(values.values())
        )
        for arm in arms:
            text, bar = shown[f"{line}.{arm}"]
            if arm not in values:
                assert (text, bar) == ("–", None), (line, arm)
                continue
            digits = text.rstrip("%").partition("e")
            last = 10.0 ** (int(digits[2] or 0) - len(digits[0].partition(".")[2]))
            assert abs(float(text.rstrip("%")) - values[arm]) <= 0.501 * last, (line, arm, text, values[arm])
            assert bar == pytest.approx(values[arm] / longest, abs=0.03), (line, arm)
    page.context.close()


@pytest.mark.parametrize("kind", ["evidence"])
def test_the_scorecard_is_copied_and_everything_is_printed(browser: Any, file: Path, kind: str) -> None:
    page = opened(browser, file, permissions=["clipboard-read", "clipboard-write"]).page
    page.click("#copy-markdown")
    page.wait_for_function("document.getElementById('copied').textContent")
    copied = page.evaluate("navigator.clipboard.readText()")
    assert copied == page.locator("#markdown").text_content()
    assert "| MC2, plain" in copied
    shut = "document.querySelectorAll('details:not([open])').length"
    page.evaluate(f"addEventListener('beforeprint', () => {{ window.shut = {shut}; }})")
    assert page.pdf().startswith(b"%PDF")
    assert page.evaluate("window.shut") == 0
    assert page.evaluate(shut) > 3, "and folded again"
    page.context.close()


@pytest.mark.parametrize("kind", ["evidence"])
def test_on_a_phone_an_anchor_unfolds_its_card(browser: Any, file: Path, kind: str) -> None:
    page = opened(browser, file, 390).page
    row = page.locator('[id="card.mc2-plain.control-frozen"]')
    assert not row.is_visible()
    page.goto(f"{file.as_uri()}#mc2-plain.control-frozen")
    page.wait_for_function("scrollY > 0")
    assert 0 <= row.bounding_box()["y"] < 844
    page.context.close()
