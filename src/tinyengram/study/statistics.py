"""How sure a difference is: intervals and tests that pair the same question under two models."""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import BaseModel

_RESAMPLES = 10_000
_ERROR_RATE = 0.05
# A true difference of (1.960 + 0.842) standard errors is shown four times out of five (Cohen 1988, two-sided 5%).
_POWER_QUANTILE = 0.8


class Difference(BaseModel):
    """A mean difference, after minus before, with its 95% interval.

    Attributes:
        mean: In the unit of the scores.
        low, high: Bounds of the interval; of several comparisons all hold at once with 95% confidence (Bonferroni).
        p_value: Of the exact McNemar test, for scores of 0 and 1 and one seed, times ``comparisons``; else None.
        detectable: The smallest true difference that so many questions and seeds would show four times out of five.
        questions, seeds: What it rests on.
        comparisons: How many differences were judged together.
    """

    mean: float
    low: float
    high: float
    p_value: float | None
    detectable: float
    questions: int
    seeds: int
    comparisons: int = 1

    @property
    def shown(self) -> bool:
        """Whether the interval excludes zero."""
        return self.low > 0 or self.high < 0


def paired_difference(
    before: Sequence[Sequence[float]], after: Sequence[Sequence[float]], *, comparisons: int = 1
) -> Difference:
    """Difference of two models' scores on the same questions, resampled over questions, and over seeds if there are
    several.

    Args:
        before: For each seed the score of every question.
        after: The same under the other model, questions in the same order.
        comparisons: How many such differences are judged together; the interval is widened for them.

    Returns:
        The mean difference with a percentile bootstrap interval (Efron 1979) of a fixed random stream.

    Raises:
        ValueError: The two do not have the same seeds and questions.
    """
    import numpy as np
    from scipy.stats import norm

    first, second = np.asarray(before, dtype=float), np.asarray(after, dtype=float)
    if first.shape != second.shape or first.ndim != 2 or not first.size:
        raise ValueError(f"Scores of shapes {first.shape} and {second.shape} cannot be paired by seed and question.")
    differences = second - first
    seeds, questions = differences.shape
    generator = np.random.default_rng(0)
    # Questions are resampled as multiplicities, so that one matrix product does every resample.
    weights = generator.multinomial(questions, np.full(questions, 1 / questions), size=_RESAMPLES)
    chosen = generator.multinomial(seeds, np.full(seeds, 1 / seeds), size=_RESAMPLES)
    means = (weights @ differences.T / questions * chosen).sum(axis=1) / seeds
    tail = _ERROR_RATE / comparisons / 2
    low, high = np.quantile(means, [tail, 1 - tail])
    binary = bool(np.isin(first, (0, 1)).all() and np.isin(second, (0, 1)).all())
    return Difference(
        mean=float(differences.mean()),
        low=float(low),
        high=float(high),
        p_value=min(1.0, comparisons * _mcnemar(first[0], second[0])) if binary and seeds == 1 else None,
        detectable=float((norm.ppf(1 - tail) + norm.ppf(_POWER_QUANTILE)) * means.std()),
        questions=questions,
        seeds=seeds,
        comparisons=comparisons,
    )


def _mcnemar(before: Sequence[float], after: Sequence[float]) -> float:
    """Exact two-sided McNemar test (McNemar 1947): are gains and losses among the changed questions even?"""
    import numpy as np
    from scipy.stats import binomtest

    gained = int(np.sum(np.asarray(after) > np.asarray(before)))
    lost = int(np.sum(np.asarray(after) < np.asarray(before)))
    return float(binomtest(gained, gained + lost).pvalue) if gained + lost else 1.0
