"""Pictures with a line for each arm and a panel for each way of asking."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from tinyengram.report.columns import Column
from tinyengram.report.figures import NARROW, Figure, both_widths
from tinyengram.report.svg import Drawing, Scale, scale_over
from tinyengram.scoring.probes import PromptName
from tinyengram.study.finding import how_moved, interval, shift_words
from tinyengram.study.results import Measurement, Results

_LINE, _TOP, _BOTTOM = 26, 34, 50
_NAMES, _NAMES_NARROW = 170, 130
_LEAST_SHIFT = 1e-4
"""A logarithmic axis has no zero: what moved less is drawn here."""
DrawLine = Callable[[Drawing, Scale, str, PromptName, float], None]


def difference_figure(results: Results, columns: Mapping[str, Column]) -> Figure:
    """What each arm kept of MC2 more than the reference at matched loss, in points, with its interval."""
    compared = {one.arm: one for one in results.comparisons if one.reached}
    reference = results.study.reference
    title = f"What each arm kept more than {reference} at equal loss"

    def scale(start: float, end: float) -> Scale:
        found = [mc2 for one in compared.values() for mc2 in one.mc2.values()]
        bounds = [100 * bound for mc2 in found for bound in (mc2.low, mc2.high) if not mc2.not_estimated]
        bounds += [100 * mc2.mean for mc2 in found]
        return scale_over([0, *bounds], start, end)

    def line(drawing: Drawing, x: Scale, arm: str, prompt: PromptName, y: float) -> None:
        found, kind = compared[arm].mc2[prompt], columns[arm].css_class
        if not found.not_estimated:
            drawing.line((x(100 * found.low), y, x(100 * found.high), y), f"bar-line {kind}")
        drawing.mark(x(100 * found.mean), y, columns[arm].style, f"{arm}, {prompt} prompt: {interval(found)}")

    words = "; ".join(
        f"{arm}, {prompt}: {interval(found)}" for arm, one in compared.items() for prompt, found in one.mc2.items()
    )
    caption = (
        f"MC2 of an arm minus {reference}'s, percentage points; bars: 95% intervals that hold for all arms together."
    )
    panels = _Panels(results, columns, list(compared), title, words, "points of MC2")
    return both_widths("figure-difference", title, caption, lambda width: panels.draw(width, scale, line, zero=0.0))


def shift_figure(results: Results, columns: Mapping[str, Column]) -> Figure:
    """How far each arm moved log-likelihoods of choices from the base's at matched loss, every seed."""
    reference = results.study.reference
    matched = [row for row in results.measurements if row.role in ("matched", "matched reference")]
    matched = list({(row.arm, row.seed, row.stop): row for row in matched}.values())
    arms = [arm for arm in results.study.arms if any(row.arm == arm for row in matched)]
    title = f"How far each arm moved what it was not taught, at {reference}'s loss"

    def scale(start: float, end: float) -> Scale:
        return scale_over((_shift(row, prompt) for row in matched for prompt in row.retention), start, end, log=True)

    def line(drawing: Drawing, x: Scale, arm: str, prompt: PromptName, y: float) -> None:
        for row in matched:
            if row.arm == arm:
                said = f"{arm}, seed {row.seed}, step {row.step}, {prompt} prompt: {_shift(row, prompt):.4f} nats"
                drawing.mark(x(_shift(row, prompt)), y, columns[arm].style, said)

    words = "; ".join(
        f"{row.arm}, seed {row.seed}, {prompt}: {_shift(row, prompt):.3g} nats"
        for row in matched
        for prompt in row.retention
    )
    what = shift_words(results)
    caption = f"{what[0].upper()}{what[1:]}, on a logarithmic axis; a mark a seed."
    panels = _Panels(results, columns, arms, title, words, f"nats, {how_moved(results)}")
    return both_widths("figure-shift", title, caption, lambda width: panels.draw(width, scale, line))


class _Panels:
    """Arms from top to bottom; panels side by side, or one below the other on a narrow screen."""

    def __init__(
        self, results: Results, columns: Mapping[str, Column], arms: list[str], title: str, words: str, unit: str
    ) -> None:
        self._prompts, self._arms, self._columns = results.study.truthfulqa.prompts, arms, columns
        self._title, self._words, self._unit = title, words, unit

    def draw(
        self, width: int, scale: Callable[[float, float], Scale], line: DrawLine, zero: float | None = None
    ) -> Drawing:
        names = _NAMES_NARROW if width <= NARROW else _NAMES
        stacked = width <= NARROW
        columns = 1 if stacked else len(self._prompts)
        panel_height = _TOP + _LINE * len(self._arms) + _BOTTOM
        height = panel_height * (len(self._prompts) if stacked else 1)
        drawing = Drawing(width, height, self._title, self._words)
        room = (width - names - 10) / columns
        for at, prompt in enumerate(self._prompts):
            top = (panel_height * at if stacked else 0) + _TOP
            left = names + (0 if stacked else room * at)
            bottom = top + _LINE * len(self._arms)
            x = scale(left + 8, left + room - 8)
            drawing.text(left + 8, top - 16, f"{prompt} prompt", css_class="panel", anchor="start")
            drawing.x_axis(x, self._unit, bottom, top - 6)
            if zero is not None:
                drawing.line((x(zero), top - 6, x(zero), bottom), "base-line")
            for place, arm in enumerate(self._arms):
                y = top + _LINE * (place + 0.5)
                name = self._columns[arm].name
                drawing.open_arm(name)
                if stacked or at == 0:
                    drawing.text(names - 4, y + 4, _shortened(name, names - 8), css_class="arm-name", anchor="end")
                line(drawing, x, arm, prompt, y)
                drawing.close()
        return drawing


def _shift(row: Measurement, prompt: PromptName) -> float:
    return max(row.retention[prompt].moved or 0.0, _LEAST_SHIFT)


def _shortened(name: str, pixels: int) -> str:
    """A name that fits beside its line; its whole is in the legend."""
    if sum(map(_width, name)) <= pixels:
        return name
    room, fits = pixels - _width("…"), 0
    while (room := room - _width(name[fits])) >= 0:
        fits += 1
    return f"{name[:fits]}…"


def _width(letter: str) -> float:
    """Pixels that a letter takes at most, in fonts of 12 pixels: m, w and what is not Latin are broad."""
    if letter in "mwMW@%" or ord(letter) > 0x2E7F:
        return 12.0
    if letter in "fijlrt-.,:;'|()[] ":
        return 5.2
    return 10.0 if letter.isupper() or letter in "<>=+~#_" else 7.6
