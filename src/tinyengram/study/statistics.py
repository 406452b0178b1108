"""How sure a difference is: intervals and tests that pair the same question under two models."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

from pydantic import BaseModel, ConfigDict

_RESAMPLES = 10_000
_ERROR_RATE = 0.05
# Half an interval is 1.960 standard errors, and a true difference of 1.960 + 0.842 of them is shown four times out of
# five (Cohen 1988, two-sided 5%).
_POWER_QUANTILE = 0.8
_UNCHANGED = "unchanged, to the bit"


class Difference(BaseModel):
    """A mean difference, after minus before, with its 95% interval.

    Attributes:
        mean: In the unit of the scores.
        low, high: Bounds of the interval; of several comparisons all hold at once with 95% confidence (Bonferroni).
            Infinite where no interval can be estimated, which ``not_estimated`` says.
        p_value: Of the exact McNemar test, for scores of 0 and 1 and one seed, times ``comparisons``; else None.
        detectable: The smallest true difference that so many questions and seeds would show four times out of five;
            infinite where no interval is estimated.
        questions, seeds: What it rests on.
        comparisons: How many differences were judged together.
        not_estimated: Why there is no interval; empty where there is one.
    """

    model_config = ConfigDict(ser_json_inf_nan="constants")  # JSON's null would not read back as a number.

    mean: float
    low: float
    high: float
    p_value: float | None
    detectable: float
    questions: int
    seeds: int
    comparisons: int = 1
    not_estimated: str = ""

    @property
    def shown(self) -> bool:
        """Whether the interval excludes zero; of none it is not shown."""
        return self.low > 0 or self.high < 0

    @property
    def unchanged(self) -> bool:
        """Whether both models said the very same of every question."""
        return self.not_estimated == _UNCHANGED

    def bounds(self, write: Callable[[float], str], before: str = "") -> str:
        """The interval in words; ``before`` stands in front of one, and what is not estimated says so."""
        if self.unchanged:
            return self.not_estimated
        if self.not_estimated:
            return f"not estimated: {self.not_estimated}"
        return f"{before}{write(self.low)} to {write(self.high)}"


def paired_difference(
    before: Sequence[Sequence[float]], after: Sequence[Sequence[float]], *, comparisons: int = 1
) -> Difference:
    """Difference of two models' scores on the same questions, resampled over questions, with the spread of seeds.

    Three seeds cannot be resampled: a bootstrap never leaves the range of what it was given, and that of three values
    holds the truth three times out of four. So questions are resampled, and of several seeds the variance that is more
    than chance among the questions explains is added with Student's t: seeds and questions as crossed random effects,
    components by the method of moments (Searle et al. 1992, chapter 4).

    Args:
        before: For each seed the score of every question.
        after: The same under the other model, questions in the same order.
        comparisons: How many such differences are judged together; the interval is widened for them.

    Returns:
        The mean difference with a percentile bootstrap interval (Efron 1979) of a fixed random stream. Where all
        differences are equal a resample never differs, and its interval would have no width: of scores of 0 and 1 it is
        Clopper and Pearson's (1934) exact bound on the share of questions that would differ, of others none is
        estimated, nor of a single question. With one seed an interval speaks of that seed alone.

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
    binary = bool(np.isin(first, (0, 1)).all() and np.isin(second, (0, 1)).all())
    tail = _ERROR_RATE / comparisons / 2
    p_value = min(1.0, comparisons * _mcnemar(first[0], second[0])) if binary and seeds == 1 else None
    # Equal but for rounding: a resample's mean then varies by rounding alone.
    alike = bool(np.allclose(differences, differences[0, 0], rtol=1e-9, atol=1e-12))
    if questions == 1 or alike:
        return _without_spread(differences, binary and alike, comparisons).model_copy(update={"p_value": p_value})
    weights, state = _resamples(questions)
    means = weights @ differences.mean(axis=0) / questions
    if seeds > 1:
        generator = np.random.default_rng(0)
        generator.bit_generator.state = state
        spread = (_seed_variance(differences) / seeds) ** 0.5
        means = means + spread * generator.standard_t(seeds - 1, size=_RESAMPLES)
    low, high = np.quantile(means, [tail, 1 - tail])
    if not high - low > 1e-12:  # Seeds that undo each other question by question.
        undone = {"p_value": p_value, "not_estimated": "the seeds undo each other question by question"}
        return _without_spread(differences, False, comparisons).model_copy(update=undone)
    return Difference(
        mean=float(differences.mean()),
        low=float(low),
        high=float(high),
        p_value=p_value,
        detectable=float((high - low) / 2 * (1 + norm.ppf(_POWER_QUANTILE) / norm.ppf(1 - tail))),
        questions=questions,
        seeds=seeds,
        comparisons=comparisons,
    )


@lru_cache(maxsize=4)
def _resamples(questions: int) -> tuple[Any, Any]:
    """How often each resample takes each question, float64 ``(resamples, questions)``; the random state behind it.

    As multiplicities, so that one matrix product does every resample. The stream is fixed, and a study draws from it
    for every measure of every pair.
    """
    import numpy as np

    generator = np.random.default_rng(0)
    weights = generator.multinomial(questions, np.full(questions, 1 / questions), size=_RESAMPLES).astype(float)
    weights.flags.writeable = False
    return weights, generator.bit_generator.state


def no_difference(questions: int, seeds: int, comparisons: int) -> Difference:
    """That of models whose answers are the same to the bit: nothing is estimated of what cannot vary."""
    return Difference(
        mean=0.0,
        low=-math.inf,
        high=math.inf,
        p_value=None,
        detectable=math.inf,
        questions=questions,
        seeds=seeds,
        comparisons=comparisons,
        not_estimated=_UNCHANGED,
    )


def _without_spread(differences: Any, binary: bool, comparisons: int) -> Difference:
    """A difference whose questions do not vary; ``binary``: of scores of 0 and 1, all alike."""
    seeds, questions = differences.shape
    mean = float(differences.mean())
    low, high = -math.inf, math.inf
    if not binary and questions > 1 and not differences.any():
        return no_difference(questions, seeds, comparisons)
    why = ""
    if binary:
        # At most so large a share of all questions differs otherwise than these did, by 2 at most.
        share = 1 - (_ERROR_RATE / comparisons) ** (1 / questions)
        low, high = mean - share * (mean + 1), mean + share * (1 - mean)
    elif questions == 1:
        why = "one question shows no spread"
    else:
        why = f"all {questions} differences are equal"
    return Difference(
        mean=mean,
        low=low,
        high=high,
        p_value=None,
        detectable=high - low,
        questions=questions,
        seeds=seeds,
        comparisons=comparisons,
        not_estimated=why,
    )


def _seed_variance(differences: Any) -> float:
    """Variance between seeds beyond what each one's own chance with the questions explains; ``(seeds, questions)``."""
    seeds, questions = differences.shape
    by_seed, by_question = differences.mean(axis=1, keepdims=True), differences.mean(axis=0, keepdims=True)
    residual = differences - by_seed - by_question + differences.mean()
    chance = (residual**2).sum() / ((seeds - 1) * max(1, questions - 1)) / questions
    return max(0.0, float(by_seed.var(ddof=1) - chance))


def _mcnemar(before: Sequence[float], after: Sequence[float]) -> float:
    """Exact two-sided McNemar test (McNemar 1947): are gains and losses among the changed questions even?"""
    import numpy as np
    from scipy.stats import binomtest

    gained = int(np.sum(np.asarray(after) > np.asarray(before)))
    lost = int(np.sum(np.asarray(after) < np.asarray(before)))
    return float(binomtest(gained, gained + lost).pvalue) if gained + lost else 1.0
