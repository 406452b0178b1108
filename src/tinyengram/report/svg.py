"""Drawing with axes, as text of inline SVG: scales with round ticks, marks that say what they are, and nothing else."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from markupsafe import Markup, escape

from tinyengram.report.palette import ArmStyle

_TICKS = 6


@dataclass(frozen=True)
class Scale:
    """Values to pixels along one axis.

    Attributes:
        low, high: Ends of the axis, in the values' unit.
        start, end: Where these ends are drawn, in pixels; ``start`` may be the larger.
        log: Whether equal ratios, not equal differences, are equally long; then both ends are positive.
    """

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def __call__(self, value: float) -> float:
        low, high, at = (math.log(one) if self.log else one for one in (self.low, self.high, value))
        return self.start + (at - low) / (high - low) * (self.end - self.start)

    def ticks(self) -> list[float]:
        """Round values within the axis, few enough to be read."""
        return _log_ticks(self.low, self.high) if self.log else _linear_ticks(self.low, self.high)


def scale_over(values: Iterable[float], start: float, end: float, *, log: bool = False, margin: float = 0.06) -> Scale:
    """An axis over all finite values with some room at both ends; a unit's width around a single one, or none.

    Args:
        values: In the axis' unit; with ``log`` those that are not positive are left out.
        start, end: Pixels.
        log: See :class:`Scale`.
        margin: Room at each end, as a share of the axis.
    """
    shown = [value for value in values if math.isfinite(value) and (value > 0 or not log)] or [1.0]
    low, high = min(shown), max(shown)
    if log:
        width = max(math.log(high / low), math.log(2))
        middle = math.log(low * high) / 2
        low, high = (math.exp(middle + side * width * (0.5 + margin)) for side in (-1, 1))
    else:
        alike = math.isclose(low, high, rel_tol=1e-4)  # Ticks of six digits could not tell them apart.
        width, middle = max(abs(high), 1.0) if alike else high - low, (low + high) / 2
        low, high = (middle + side * width * (0.5 + margin) for side in (-1, 1))
    return Scale(low, high, start, end, log)


def _linear_ticks(low: float, high: float) -> list[float]:
    step = 10.0 ** math.floor(math.log10((high - low) / _TICKS))
    step = next(step * times for times in (1, 2, 2.5, 5, 10) if (high - low) / (step * times) <= _TICKS)
    return [at * step for at in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)]


def _log_ticks(low: float, high: float) -> list[float]:
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for digits in ((1, 1.5, 2, 3, 5, 7), (1, 2, 3, 5), (1, 2, 5), (1, 3), (1,)):
        ticks = [round(digit * 10.0**decade, 1 - decade) for decade in decades for digit in digits]
        ticks = [tick for tick in ticks if low <= tick <= high]
        if len(ticks) <= _TICKS:
            break
    else:
        ticks = ticks[:: math.ceil(len(ticks) / _TICKS)]
    return ticks if len(ticks) > 2 else _linear_ticks(low, high)


def tick_text(value: float) -> str:
    """A tick without more digits than it needs."""
    return f"{value:.6g}".replace("-", "\N{MINUS SIGN}")


@dataclass
class Drawing:
    """One picture that grows mark by mark.

    Attributes:
        width, height: Pixels.
        title, description: For those who do not see it.
        parts: What was drawn.
    """

    width: int
    height: int
    title: str
    description: str
    parts: list[str] = field(default_factory=list)

    def line(self, ends: tuple[float, float, float, float], css_class: str) -> None:
        x1, y1, x2, y2 = ends
        self.parts.append(f'<line class="{css_class}" x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"/>')

    def text(self, x: float, y: float, text: str, *, css_class: str = "tick", anchor: str = "middle") -> None:
        self.parts.append(
            f'<text class="{css_class}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'
        )

    def path(self, points: Sequence[tuple[float, float]], css_class: str, *, dash: str = "") -> None:
        """A line through points; nothing where there are fewer than two."""
        if len(points) > 1:
            way = "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in points)
            dashes = f' stroke-dasharray="{dash}"' if dash else ""
            self.parts.append(f'<path class="{css_class}" d="{way}"{dashes}/>')

    def mark(self, x: float, y: float, style: ArmStyle | None, said: str) -> None:
        """A mark of an arm (None: the base) that says what it is when it is pointed at."""
        shape = _shape(x, y, style)
        kind = style.css_class if style else "arm-base"
        self.parts.append(f'<g class="mark {kind}">{shape}<title>{escape(said)}</title></g>')

    def ring(self, x: float, y: float, css_class: str) -> None:
        self.parts.append(f'<circle class="ring {css_class}" cx="{x:.1f}" cy="{y:.1f}" r="9"/>')

    def open_arm(self, name: str) -> None:
        """What follows, until :meth:`close`, belongs to an arm and is hidden with it."""
        self.parts.append(f'<g data-arm="{escape(name)}">')

    def close(self) -> None:
        self.parts.append("</g>")

    def x_axis(self, scale: Scale, title: str, y: float, top: float) -> None:
        """Ticks with lines up to ``top``, and the title below."""
        for tick in scale.ticks():
            self.line((scale(tick), top, scale(tick), y), "grid")
            self.text(scale(tick), y + 16, tick_text(tick))
        self.line((scale.start, y, scale.end, y), "axis")
        self.text((scale.start + scale.end) / 2, y + 36, title, css_class="axis-title")

    def y_axis(self, scale: Scale, title: str, x: float, right: float) -> None:
        """Ticks with lines over to ``right``, and the title on top, where it need not be turned."""
        for tick in scale.ticks():
            self.line((x, scale(tick), right, scale(tick)), "grid")
            self.text(x - 6, scale(tick) + 4, tick_text(tick), anchor="end")
        self.text(4, 14, title, css_class="axis-title", anchor="start")

    def markup(self, css_class: str) -> Markup:
        """The picture; it scales with its place."""
        head = (
            f'<svg class="{css_class}" viewBox="0 0 {self.width} {self.height}" role="img" '
            f'aria-label="{escape(self.title)}"><desc>{escape(self.description)}</desc>'
        )
        return Markup(head + "".join(self.parts) + "</svg>")


def symbol(style: ArmStyle | None) -> Markup:
    """An arm's mark alone, for a legend."""
    kind = style.css_class if style else "arm-base"
    return Markup(
        '<svg class="symbol" viewBox="0 0 14 14" aria-hidden="true">'
        f'<g class="mark {kind}">{_shape(7, 7, style)}</g></svg>'
    )


def _shape(x: float, y: float, style: ArmStyle | None) -> str:
    if style is None:
        return f'<path d="M{x:.1f} {y - 6:.1f}l6 6l-6 6l-6 -6z"/>'
    if style.symbol == "square":
        return f'<rect x="{x - 4.5:.1f}" y="{y - 4.5:.1f}" width="9" height="9"/>'
    if style.symbol == "triangle":
        return f'<path d="M{x:.1f} {y - 6:.1f}l5.5 10h-11z"/>'
    return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="5"/>'
