"""Intervals pair questions, cover what they claim to cover, and the exact test is exact."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import bootstrap

from tinyengram.study.statistics import Difference, paired_difference


def test_pairing_narrows_the_interval() -> None:
    draw = np.random.default_rng(0)
    before = draw.normal(size=200)
    after = before + 0.1 + draw.normal(scale=0.05, size=200)
    found = paired_difference([before.tolist()], [after.tolist()])
    assert found.mean == pytest.approx((after - before).mean())
    assert found.high - found.low < 0.03
    assert found.shown


def test_the_interval_is_scipys_percentile_bootstrap() -> None:
    draw = np.random.default_rng(1)
    differences = draw.normal(0.3, 1, size=150)
    found = paired_difference([[0.0] * 150], [differences.tolist()])
    wanted = bootstrap((differences,), np.mean, method="percentile", n_resamples=20_000, rng=draw).confidence_interval
    assert found.low == pytest.approx(wanted.low, abs=0.01)
    assert found.high == pytest.approx(wanted.high, abs=0.01)


def test_seeds_widen_the_interval() -> None:
    draw = np.random.default_rng(2)
    one = draw.normal(size=100)
    shifts = (-0.5, 0.0, 0.5)
    several = paired_difference([one.tolist()] * 3, [(one + shift).tolist() for shift in shifts])
    assert several.seeds == 3
    assert several.mean == pytest.approx(0)
    assert several.low < -0.2
    assert several.high > 0.2
    assert not several.shown


@pytest.mark.parametrize(
    ("between_seeds", "between_questions"),
    [(1.0, 1.0), *(pytest.param(*one, marks=pytest.mark.slow) for one in ((0.3, 1.0), (0.0, 1.0), (1.0, 0.0)))],
)
def test_coverage_with_three_seeds(between_seeds: float, between_questions: float) -> None:
    """A bootstrap over three seeds alone would hold the truth three times out of four."""
    draw = np.random.default_rng(7)
    covered = 0
    for _ in range(150):
        seeds = draw.normal(0, between_seeds, size=(3, 1))
        questions = draw.normal(0.2, between_questions, size=(1, 40))
        sample = seeds + questions + draw.normal(0, 0.5, size=(3, 40))
        found = paired_difference([[0.0] * 40] * 3, sample.tolist())
        covered += found.low <= 0.2 <= found.high
    assert covered / 150 >= 0.88


def test_coverage_is_near_95_percent() -> None:
    draw = np.random.default_rng(3)
    covered = 0
    for _ in range(200):
        sample = draw.normal(0.2, 1, size=60)
        found = paired_difference([[0.0] * 60], [sample.tolist()])
        covered += found.low <= 0.2 <= found.high
    assert 0.88 <= covered / 200 <= 0.99


def test_mcnemar_is_exact() -> None:
    before = [1.0] * 8 + [0.0] * 2 + [1.0] * 10
    after = [0.0] * 8 + [1.0] * 2 + [1.0] * 10
    # Two gains among ten changes: 2 * P(X <= 2), X ~ Binomial(10, 1/2).
    assert paired_difference([before], [after]).p_value == pytest.approx(2 * (1 + 10 + 45) / 1024)
    assert paired_difference([before], [before]).p_value == 1
    assert paired_difference([[0.3, 1.0]], [[0.2, 1.0]]).p_value is None


@pytest.mark.slow
def test_several_comparisons_widen_the_interval() -> None:
    """Of five differences that are all zero, at least one is called shown in about 5% of the trials, not in 23%."""
    draw = np.random.default_rng(5)
    wrong = 0
    for _ in range(40):
        samples = draw.normal(size=(5, 60))
        wrong += any(paired_difference([[0.0] * 60], [one.tolist()], comparisons=5).shown for one in samples)
    assert wrong / 40 <= 0.15
    before, after = [1.0] * 6, [0.0] * 6
    assert paired_difference([before], [after], comparisons=3).p_value == pytest.approx(3 * 2 / 64)


@pytest.mark.slow
def test_a_detectable_difference_is_shown_four_times_out_of_five() -> None:
    draw = np.random.default_rng(6)
    size = 100
    detectable = paired_difference([[0.0] * size], [draw.normal(size=size).tolist()]).detectable
    assert detectable == pytest.approx(2.80 / size**0.5, rel=0.2)
    shown = [
        paired_difference([[0.0] * size], [draw.normal(2.80 / size**0.5, 1, size=size).tolist()]).shown
        for _ in range(100)
    ]
    assert 0.7 <= np.mean(shown) <= 0.9


def test_the_same_numbers_each_time() -> None:
    scores = np.random.default_rng(4).random((2, 1, 50))
    first, second = (paired_difference(scores[0].tolist(), scores[1].tolist()) for _ in range(2))
    assert first == second


def test_scores_that_do_not_pair_are_refused() -> None:
    with pytest.raises(ValueError, match="cannot be paired"):
        paired_difference([[1.0, 2.0]], [[1.0]])


@pytest.mark.parametrize(
    ("before", "after", "why"),
    [
        ([[0.3] * 40], [[0.3] * 40], "unchanged, to the bit"),
        ([[0.25 * at for at in range(40)]], [[0.25 * at + 0.1 for at in range(40)]], "all 40 differences are equal"),
        ([[0.3]], [[0.4]], "one question shows no spread"),
        ([[0.3], [0.2]], [[0.4], [0.5]], "one question shows no spread"),
    ],
)
def test_an_interval_without_width_is_refused(before: list[list[float]], after: list[list[float]], why: str) -> None:
    found = paired_difference(before, after)
    assert found.not_estimated == why
    assert not found.shown
    assert (-found.low, found.high, found.detectable) == (np.inf,) * 3
    assert found.bounds(str, "95% interval ") == (why if found.unchanged else f"not estimated: {why}")
    assert found.unchanged == (before == after)
    assert Difference.model_validate_json(found.model_dump_json()) == found


def test_seeds_that_undo_each_other_give_no_interval_either() -> None:
    assert paired_difference([[0.0, 0.0]] * 2, [[0.5, 0.0], [0.0, 0.5]]).not_estimated


@pytest.mark.parametrize("questions", [1, 16, 300])
def test_scores_that_all_agree_have_an_exact_bound(questions: int) -> None:
    unchanged = paired_difference([[1.0] * questions], [[1.0] * questions])
    # The rule of three: a share of 1 - 0.05^(1/n) would still show no change once in twenty times.
    assert (1 - unchanged.high) ** questions == pytest.approx(0.05)
    assert unchanged.low == -unchanged.high
    assert (unchanged.p_value, unchanged.shown, unchanged.not_estimated) == (1, False, "")
    gained = paired_difference([[0.0] * questions], [[1.0] * questions])
    assert gained.high == 1
    assert gained.low == pytest.approx(1 - 2 * unchanged.high)
    assert gained.shown == (gained.low > 0)
    wider = paired_difference([[1.0] * questions], [[1.0] * questions], comparisons=5)
    assert wider.high > unchanged.high
