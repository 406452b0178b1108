"""Axes hold what they show, ticks are round and few, and arms differ."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tinyengram.report.palette import DARK, LIGHT, arm_styles, palette_css
from tinyengram.report.svg import Drawing, scale_over, tick_text

VALUES = st.lists(st.floats(1e-6, 1e6), min_size=1, max_size=8)


@given(VALUES, st.booleans(), st.booleans())
@example([113637.0], False, False)
@example([1.0000000000000002e-06, 1e-06], False, False)
@example([100000.0, 100000.01], False, True)
def test_an_axis_holds_every_value_and_has_few_ticks(values: list[float], log: bool, turned: bool) -> None:
    start, end = (400.0, 20.0) if turned else (20.0, 400.0)
    scale = scale_over(values, start, end, log=log)
    assert all(20 <= scale(value) <= 400 for value in values)
    ticks = scale.ticks()
    assert 3 <= len(ticks) <= 8
    assert all(earlier < later for earlier, later in pairwise(ticks))
    assert all(19.9 <= scale(tick) <= 400.1 for tick in ticks)
    assert all(len(tick_text(tick)) <= 12 for tick in ticks)
    assert len({tick_text(tick) for tick in ticks}) == len(ticks)


def test_ratios_are_equally_long_on_a_logarithmic_axis() -> None:
    scale = scale_over([0.01, 100], 0, 100, log=True)
    assert scale(1) - scale(0.1) == pytest.approx(scale(10) - scale(1))
    assert 1.0 in scale.ticks()


@pytest.mark.parametrize("values", [[], [math.nan], [0.0, -1.0], [3.0], [3.0, math.inf]])
def test_what_cannot_be_drawn_does_not_break_an_axis(values: list[float]) -> None:
    scale = scale_over(values, 0, 100, log=True)
    assert 0 < scale.low < scale.high


def test_24_arms_are_all_drawn_differently() -> None:
    styles = arm_styles([f"arm {at}" for at in range(24)])
    assert len({(style.index, style.symbol) for style in styles.values()}) == 24
    assert {style.css_class for style in styles.values()} == {f"arm-{at}" for at in range(len(LIGHT))}
    assert len(LIGHT) == len(DARK) == palette_css().count(".arm-") / 2


def test_a_mark_says_what_it_is_and_escapes_it() -> None:
    drawing = Drawing(100, 50, "a <title>", "what it <shows>")
    drawing.mark(1, 2, None, "<b>5</b> nats")
    drawing.open_arm('"><script>')
    drawing.text(1, 2, "<script>")
    drawing.close()
    picture = drawing.markup("picture")
    assert "<script>" not in picture
    assert "<title>&lt;b&gt;5&lt;/b&gt; nats</title>" in picture
    assert 'aria-label="a &lt;title&gt;"' in picture
    assert "<desc>what it &lt;shows&gt;</desc>" in picture
