"""An arm's colour, symbol and dash: the same everywhere on a page, and told apart without colour."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Symbol = Literal["circle", "square", "triangle"]

LIGHT = ("#2a5bff", "#cc3300", "#2f7a52", "#6108b3", "#0076a8", "#820004", "#134860", "#120069")
"""Marks and text on white: at least 4.6:1 there, and apart from one another for the red- and green-blind."""
DARK = ("#2e9dff", "#ff7208", "#42b371", "#e757c2", "#74c8ff", "#ff94bc", "#81fff2", "#bfe069")
"""The same on a dark page."""
_SYMBOLS: tuple[Symbol, ...] = ("circle", "square", "triangle")
_DASHES = ("", "7 4", "2 3")


@dataclass(frozen=True)
class ArmStyle:
    """How an arm is drawn.

    Attributes:
        index: Of its colour, the number in the class ``arm-…``.
        symbol: Of its marks. Colours and symbols come round after different numbers, so 24 arms differ.
        dash: Of its lines, as SVG's ``stroke-dasharray``; empty: drawn through.
    """

    index: int
    symbol: Symbol
    dash: str

    @property
    def css_class(self) -> str:
        return f"arm-{self.index}"


def arm_styles(names: Sequence[str]) -> dict[str, ArmStyle]:
    """A style for each arm, by its place among them."""
    return {
        name: ArmStyle(at % len(LIGHT), _SYMBOLS[at % len(_SYMBOLS)], _DASHES[at // len(LIGHT) % len(_DASHES)])
        for at, name in enumerate(names)
    }


def palette_css() -> str:
    """Classes ``arm-0`` … that set the property ``--arm``, on light and on dark pages."""
    light, dark = (
        "".join(f".arm-{index}{{--arm:{colour}}}" for index, colour in enumerate(colours)) for colours in (LIGHT, DARK)
    )
    return f"{light}@media screen and (prefers-color-scheme: dark){{{dark}}}"
