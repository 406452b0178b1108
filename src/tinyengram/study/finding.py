"""The finding in plain words: every sentence follows from an interval, and none says more than the numbers."""

from __future__ import annotations

from statistics import fmean

from tinyengram.study.results import Comparison, Measurement, Results
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
    ours = [_one(results, arm, seed, "matched", None) for seed in comparison.reached]
    theirs = [_one(results, reference, seed, "matched reference", arm) for seed in comparison.reached]
    losses = [fmean(_loss(results, row) for row in rows) for rows in (ours, theirs)]
    # The way of asking in which the arm did worst comes first.
    verdicts = [
        _verdict(arm, reference, name, difference)
        for name, difference in sorted(comparison.mc2.items(), key=lambda item: item[1].mean)
    ]
    shifts = {
        name: [fmean(row.retention[name].shift or 0.0 for row in rows) for rows in (ours, theirs)]
        for name in comparison.mc2
    }
    worst_first = sorted(shifts, key=lambda name: -shifts[name][0])
    moved = ", ".join(f"{shifts[name][0]:.3f} and {shifts[name][1]:.3f} in the {name} prompt" for name in worst_first)
    sentences = [
        f"At matched eval loss ({arm} {losses[0]:.4f}, {reference} {losses[1]:.4f}), {'; '.join(verdicts)}.",
        f"Log-likelihoods of choices moved from the base's by, on average, {moved} (nats; {arm} and {reference}).",
    ]
    if comparison.missed:
        sentences.append(f"{arm} did not reach {reference}'s loss with seed {_listed(comparison.missed)}.")
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


def _verdict(arm: str, reference: str, prompt: str, difference: Difference) -> str:
    if not difference.shown:
        return f"no difference in MC2 is shown in the {prompt} prompt: {interval(difference)}"
    kept = "more" if difference.mean > 0 else "less"
    return f"{arm} kept {kept} of MC2 than {reference} in the {prompt} prompt: {interval(difference)}"


def _limits(results: Results) -> list[str]:
    seeds, data = len(results.study.seeds), results.data
    limits = [f"Scores are those of {data.question_label}."]
    compared = [one.mc2[name] for one in results.comparisons for name in one.mc2]
    if compared:
        limits.append(
            "With so many questions and seeds, a true difference in MC2 is shown four times out of five only if it "
            f"is at least {100 * max(one.detectable for one in compared):.1f} points."
        )
        if (together := compared[0].comparisons) > 1:
            limits.append(f"The intervals of the {together} arms' differences hold together.")
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
