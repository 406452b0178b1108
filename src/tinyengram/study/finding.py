"""The finding in plain words: every sentence follows from an interval, and none says more than the numbers."""

from __future__ import annotations

from tinyengram.study.results import Comparison, Measurement, Results, Retention
from tinyengram.study.statistics import Difference


def describe_finding(results: Results) -> str:
    """One paragraph: what was matched, what each arm lost, whether a difference was shown, and what limits it."""
    sentences = [sentence for comparison in results.comparisons for sentence in _compared(results, comparison)]
    if not results.comparisons:
        sentences = ["The study has one arm, so nothing was compared."]
    sentences += _limits(results)
    return " ".join(sentences)


def points(value: float) -> str:
    """A share as percentage points with its sign."""
    return f"{100 * value:+.1f}".replace("-", "\N{MINUS SIGN}")


def interval(difference: Difference) -> str:
    """A difference in points with its 95% interval."""
    return f"{points(difference.mean)} points (95% interval {points(difference.low)} to {points(difference.high)})"


def _compared(results: Results, comparison: Comparison) -> list[str]:
    arm, reference = comparison.arm, comparison.reference
    if not comparison.reached:
        return [f"{arm} never reached the eval loss of any checkpoint of {reference}, so the two are not compared."]
    sentences = []
    if comparison.missed:
        sentences.append(f"{arm} did not reach {reference}'s loss with seed {_listed(comparison.missed)}.")
    for seed in comparison.reached:
        ours = _one(results, arm, seed, "matched", None)
        theirs = _one(results, reference, seed, "matched reference", arm)
        sentences.append(
            f"With seed {seed}, {arm} reached an eval loss of {_loss(results, ours):.4f} at step {ours.step}, "
            f"{reference} {_loss(results, theirs):.4f} at step {theirs.step}."
        )
        for name, mine in ours.retention.items():
            other = theirs.retention[name]
            sentences.append(
                f"In the {name} prompt, against the base, MC2 of {reference} changed by {_judged(other)} and that of "
                f"{arm} by {_judged(mine)}; choices' log-likelihoods moved by {other.shift:.3f} nats on average under "
                f"{reference} and by {mine.shift:.3f} under {arm}."
            )
    for name, difference in comparison.mc2.items():
        where = f"at matched loss in the {name} prompt"
        if difference.shown:
            verdict = f"{arm} kept {'more' if difference.mean > 0 else 'less'} of MC2 than {reference} {where}"
        else:
            verdict = f"No difference in MC2 between {arm} and {reference} {where} is shown"
        sentences.append(f"{verdict}: {interval(difference)}.")
    for one_set, by_prompt in comparison.accuracy.items():
        for name, difference in by_prompt.items():
            where = f"of {one_set} in the {name} prompt"
            if difference.shown:
                better = "more" if difference.mean > 0 else "fewer"
                sentences.append(f"{arm} answered {better} {where} rightly than {reference}: {interval(difference)}.")
            else:
                sentences.append(f"No difference in right answers {where} is shown: {interval(difference)}.")
    if comparison.drift is not None:
        drift = comparison.drift
        verdict = "no difference shown" if not drift.shown else "less" if drift.mean < 0 else "more"
        sentences.append(
            f"On general text the divergence of {arm} from the base, less that of {reference}, was {drift.mean:+.2g} "
            f"nats per token (95% interval {drift.low:+.2g} to {drift.high:+.2g}): {verdict}."
        )
    return sentences


def _judged(retention: Retention) -> str:
    assert retention.delta_mc2 is not None
    judged = "" if retention.delta_mc2.shown else ", no change shown"
    return f"{interval(retention.delta_mc2)}{judged}"


def _limits(results: Results) -> list[str]:
    seeds, data = len(results.study.seeds), results.data
    limits = [f"Scores are those of {data.question_label}."]
    compared = [one.mc2[name] for one in results.comparisons for name in one.mc2]
    if compared:
        limits.append(
            "With so many questions and seeds, a true difference in MC2 at matched loss is shown four times out of "
            f"five only if it is at least {100 * max(one.detectable for one in compared):.1f} points."
        )
        if (together := compared[0].comparisons) > 1:
            limits.append(f"The intervals of the {together} differences from {results.study.reference} hold together.")
    if seeds == 1:
        limits.append("This is one run per arm: intervals cover the choice of questions, not that of seeds.")
    return limits


def _one(results: Results, arm: str, seed: int, role: str, matched_with: str | None) -> Measurement:
    return next(
        row
        for row in results.measurements
        if (row.arm, row.seed, row.role, row.matched_with) == (arm, seed, role, matched_with)
    )


def _loss(results: Results, row: Measurement) -> float:
    return row.eval_loss_whole if results.study.loss_on == "whole" else row.eval_loss_answer


def _listed(seeds: list[int]) -> str:
    return ", ".join(map(str, seeds))
