"""The curve's mean is the trapezoid area over the logarithm of the loss, and the frontier is what nothing beats."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinyengram.study.frontier import curve_weights, record_lows, unbeaten

falling = st.lists(st.floats(0.01, 10), min_size=2, max_size=6, unique=True).map(lambda all: sorted(all, reverse=True))


@given(falling, st.data())
def test_the_mean_is_the_area_of_the_cut_curve_over_its_width(losses: list[float], data: st.DataObject) -> None:
    scores = data.draw(st.lists(st.floats(-5, 5), min_size=len(losses), max_size=len(losses)))
    share = data.draw(st.floats(0.05, 1))
    x = np.array([-math.log(loss) for loss in losses])
    end = x[0] + share * (x[-1] - x[0])
    deepest = max(math.exp(-end), losses[-1])
    if not deepest < losses[0] or not x[0] < end:
        return
    grid = np.union1d(np.linspace(x[0], end, 2001), x[x < end])
    area = np.trapezoid(np.interp(grid, x, scores), grid) / (end - x[0])
    weights = curve_weights(losses, deepest)
    assert sum(weights) == pytest.approx(1)
    assert np.dot(weights, scores) == pytest.approx(area, abs=1e-4)


def test_two_points_weigh_the_same_and_a_cut_moves_weight_to_the_first() -> None:
    assert curve_weights([4.0, 1.0], 1.0) == pytest.approx([0.5, 0.5])
    assert curve_weights([4.0, 1.0], 2.0) == pytest.approx([0.75, 0.25])
    assert curve_weights([4.0, 2.0, 1.0], 2.0) == pytest.approx([0.5, 0.5, 0])


@pytest.mark.parametrize(("losses", "deepest"), [([1.0], 1.0), ([1.0, 2.0], 1.0), ([2.0, 1.0], 0.5), ([2.0, 1.0], 2.0)])
def test_a_curve_that_does_not_fall_or_a_cut_outside_is_refused(losses: list[float], deepest: float) -> None:
    with pytest.raises(ValueError, match=r"must (fall|lie)"):
        curve_weights(losses, deepest)


def test_record_lows_are_below_everything_before() -> None:
    assert record_lows([3, 2, 2, 2.5, 1]) == [0, 1, 4]


points = st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=1, max_size=10)


@given(points)
def test_everything_beaten_is_beaten_by_the_frontier_and_nothing_on_it_is(all_points: list[tuple[int, int]]) -> None:
    kept = unbeaten(all_points)

    def beats(one: tuple[int, int], other: tuple[int, int]) -> bool:
        return one != other and one[0] <= other[0] and one[1] >= other[1]

    for index, point in enumerate(all_points):
        beaten = any(beats(all_points[one], point) for one in kept)
        assert beaten == (index not in kept)
    assert [all_points[index][0] for index in kept] == sorted((all_points[index][0] for index in kept), reverse=True)
