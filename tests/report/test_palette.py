"""Arms are told apart by those who see fewer colours, and texts stand out from what they stand on."""

from __future__ import annotations

import itertools
import re
from importlib.resources import files

import numpy as np
import pytest

from tests.report.test_browser import contrast
from tinyengram.report.palette import DARK, LIGHT

TOLD_APART = 0.1
"""Distance in OKLab, where 1 is from black to white and 0.02 can just be seen beside one another."""
SEEN_BY = {
    "all": np.eye(3),
    # Machado, Oliveira and Fernandes 2009, at full severity, on linear RGB.
    "those without red": [
        [0.152286, 1.052583, -0.204868],
        [0.114503, 0.786281, 0.099216],
        [-0.003882, -0.048116, 1.051998],
    ],
    "those without green": [
        [0.367322, 0.860646, -0.227968],
        [0.280085, 0.672501, 0.047413],
        [-0.01182, 0.04294, 0.968881],
    ],
}


def linear(colour: str) -> np.ndarray:
    parts = np.array([int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)])
    return np.where(parts <= 0.04045, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4)


def oklab(rgb: np.ndarray) -> np.ndarray:
    """Ottosson 2020."""
    cones = [
        [0.41222147, 0.53633254, 0.05144599],
        [0.2119035, 0.68069955, 0.10739696],
        [0.08830246, 0.28171884, 0.6299787],
    ]
    lab = [
        [0.21045426, 0.79361779, -0.00407205],
        [1.9779985, -2.42859221, 0.45059371],
        [0.02590404, 0.78277177, -0.80867577],
    ]
    return np.array(lab) @ np.cbrt(np.array(cones) @ rgb)


@pytest.mark.parametrize("eyes", SEEN_BY)
@pytest.mark.parametrize("colours", [LIGHT, DARK], ids=["light", "dark"])
def test_eight_arms_are_told_apart(colours: tuple[str, ...], eyes: str) -> None:
    seen = [oklab(np.clip(np.array(SEEN_BY[eyes]) @ linear(colour), 0, 1)) for colour in colours]
    apart = {
        pair: np.linalg.norm(seen[pair[0]] - seen[pair[1]]) for pair in itertools.combinations(range(len(seen)), 2)
    }
    assert {pair: distance for pair, distance in apart.items() if distance < TOLD_APART} == {}


@pytest.mark.parametrize("scheme", [0, 1], ids=["light", "dark"])
def test_texts_stand_out_from_card_and_page(scheme: int) -> None:
    css = files("tinyengram.report").joinpath("page.css").read_text(encoding="utf-8")
    named = dict(re.findall(r"--(\w+): (#[0-9a-f]{6})", re.findall(r":root \{(.*?)\}", css)[scheme]))
    ratios = {
        (text, ground): contrast(named[text], named[ground])
        for text in ("ink", "soft", "accent", "good", "bad", "base")
        for ground in ("card", "page")
    }
    assert {pair: ratio for pair, ratio in ratios.items() if ratio < 4.5} == {}
