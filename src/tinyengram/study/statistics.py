"""How sure a difference is: intervals and tests that pair the same question under two models."""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import BaseModel

_RESAMPLES = 10_000


class Difference(BaseModel):
    """A mean difference, after minus before, with its 95% interval.

    Attributes:
        mean: In the unit of the scores.
        low, high: Bounds of the interval.
        p_value: Of the exact McNemar test, for scores of 0 and 1; else None.
        questions, seeds: What it rests on.
    """

    mean: float
    low: float
    high: float
    p_value: float | None
    questions: int
    seeds: int

    @property
    def shown(self) -> bool:
        """Whether the interval excludes zero."""
        return self.low > 0 or self.high < 0


def paired_difference(before: Sequence[Sequence[float]], after: Sequence[Sequence[float]]) -> Difference:
    """Difference of two models' scores on the same questions, resampled over questions, and over seeds if there are
    several.

    Args:
        before: For each seed the score of every question.
        after: The same under the other model, questions in the same order.

    Returns:
        The mean difference with a percentile bootstrap interval (Efron 1979) of a fixed random stream.

    Raises:
        ValueError: The two do not have the same seeds and questions.
    """
    import numpy as np

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
    low, high = np.quantile(means, [0.025, 0.975])
    binary = bool(np.isin(first, (0, 1)).all() and np.isin(second, (0, 1)).all())
    return Difference(
        mean=float(differences.mean()),
        low=float(low),
        high=float(high),
        p_value=_mcnemar(first[0], second[0]) if binary and seeds == 1 else None,
        questions=questions,
        seeds=seeds,
    )


def _mcnemar(before: Sequence[float], after: Sequence[float]) -> float:
    """Exact two-sided McNemar test (McNemar 1947): are gains and losses among the changed questions even?"""
    import numpy as np
    from scipy.stats import binomtest

    gained = int(np.sum(np.asarray(after) > np.asarray(before)))
    lost = int(np.sum(np.asarray(after) < np.asarray(before)))
    return float(binomtest(gained, gained + lost).pvalue) if gained + lost else 1.0
