"""The finding in plain words: every sentence follows from an interval, and none says more than the numbers."""

from __future__ import annotations

import math
from statistics import fmean

from tinyengram.scoring.probes import PromptName
from tinyengram.study.matching import CLOSE, apart, is_close
from tinyengram.study.results import Comparison, Measurement, Results
from tinyengram.study.statistics import Difference

_ONE_BY_ONE = 3
"""Up to so many arms are told one by one, more of them together."""


def describe_finding(results: Results) -> str:
    """One paragraph: what was matched, what each arm lost, whether a difference was shown, and what limits it."""
    reached = [comparison for comparison in results.comparisons if comparison.reached]
    if not results.comparisons:
        sentences = ["The study has one arm, so nothing was compared."]
    elif len(reached) <= _ONE_BY_ONE:
        sentences = [sentence for comparison in results.comparisons for sentence in _compared(results, comparison)]
    else:
        sentences = _together(results, reached)
    if unequal := [_unequal(results, one) for one in reached if not_matched(results, one)]:
        sentences.append(
            f"Not matched within {CLOSE:.0%}: {'; '.join(unequal)}. What these lost more than "
            f"{results.study.reference} is partly the price of having "
            "learnt more; a smaller eval_every brings the pairs closer."
        )
    sentences += _limits(results)
    return " ".join(sentences)


def not_matched(results: Results, comparison: Comparison) -> list[int]:
    """Seeds of whose pair the losses differ by more than 5%: the arm has learnt more than the reference there."""
    return [
        seed
        for seed, ours, theirs in zip(comparison.reached, *matched_rows(results, comparison), strict=True)
        if not is_close(loss_of(results, ours), loss_of(results, theirs))
    ]


def _unequal(results: Results, comparison: Comparison) -> str:
    ours, theirs = (mean_loss(results, rows) for rows in matched_rows(results, comparison))
    seeds = not_matched(results, comparison)
    where = "" if len(results.study.seeds) == 1 else f", seed {_listed(seeds)}"
    why = "".join(f": {reason}" for reason in dict.fromkeys(comparison.why_apart.values()))
    return f"{comparison.arm} (eval loss {ours:.4f} against {theirs:.4f}{where}{why})"


def matching_notes(results: Results, comparison: Comparison) -> list[str]:
    """What a reader must know of a pair before he compares: that it is not equal, and that it was not trained."""
    ours, theirs = matched_rows(results, comparison)
    several = len(results.study.seeds) > 1
    notes = []
    for seed, mine, its in zip(comparison.reached, ours, theirs, strict=True):
        of_seed = f" with seed {seed}" if several else ""
        loss, level = loss_of(results, mine), loss_of(results, its)
        if not is_close(loss, level):
            kind = "lower" if loss < level else "higher"
            notes.append(f"{abs(apart(loss, level)):.0%} {kind} loss than {comparison.reference}'s{of_seed}")
        if mine.between is not None:
            notes.append(f"mixed from two stops, {mine.between}{of_seed}")
    return notes


def points(value: float) -> str:
    """A share as percentage points with its sign."""
    return f"{100 * value:+.1f}".replace("-", "\N{MINUS SIGN}")


def interval(difference: Difference) -> str:
    """A difference in points with its 95% interval."""
    return f"{points(difference.mean)} points ({difference.bounds(points, '95% interval ')})"


def _together(results: Results, reached: list[Comparison]) -> list[str]:
    """Many arms: for each way of asking, which kept more or less than the reference and which moved answers farther."""
    reference = results.study.reference
    sentences = []
    for prompt in results.study.truthfulqa.prompts:
        verdicts: dict[str, list[str]] = {"kept more": [], "kept less": []}
        for one in reached:
            if one.mc2[prompt].shown:
                kind = "kept more" if one.mc2[prompt].mean > 0 else "kept less"
                verdicts[kind].append(f"{one.arm} ({interval(one.mc2[prompt])})")
        told = [f"{kind} of MC2: {', '.join(arms)}" for kind, arms in verdicts.items() if arms]
        unshown = [one.arm for one in reached if not one.mc2[prompt].shown]
        if unshown:
            told.append(f"no difference is shown for {', '.join(unshown)}")
        moved = []
        for kind, sign in (("less far", -1), ("farther", 1)):
            shown = [one for one in reached if one.moved[prompt].shown and sign * one.moved[prompt].mean > 0]
            if shown:
                ratios = (f"{one.arm} ({_as_far(shift_ratio(results, one, prompt))})" for one in shown)
                moved.append(f"{kind} with {', '.join(ratios)}")
        sentences.append(f"At matched eval loss in the {prompt} prompt, against {reference}, {'; '.join(told)}.")
        if moved:
            sentences.append(f"Log-likelihoods of choices, {how_moved(results)}, moved {'; '.join(moved)}.")
    for one in results.comparisons:
        if one.missed:
            sentences.append(_missed(one))
    return sentences


def _as_far(ratio: float) -> str:
    return f"{ratio:.2g} times" if math.isfinite(ratio) else "the reference moved nothing"


def _missed(comparison: Comparison) -> str:
    arm, reference = comparison.arm, comparison.reference
    if comparison.reached:
        return f"{arm} did not reach {reference}'s loss with seed {_listed(comparison.missed)}."
    return f"{arm} never reached the eval loss of any checkpoint of {reference}, so the two are not compared."


def _compared(results: Results, comparison: Comparison) -> list[str]:
    arm, reference = comparison.arm, comparison.reference
    if not comparison.reached:
        return [_missed(comparison)]
    ours, theirs = matched_rows(results, comparison)
    losses = [mean_loss(results, ours), mean_loss(results, theirs)]
    # The way of asking in which the arm did worst comes first.
    verdicts = [
        _verdict(arm, reference, name, difference)
        for name, difference in sorted(comparison.mc2.items(), key=lambda item: item[1].mean)
    ]
    shifts = {name: [mean_shift(ours, name), mean_shift(theirs, name)] for name in comparison.mc2}
    worst_first = sorted(shifts, key=lambda name: -shifts[name][0])
    moved = ", ".join(f"{shifts[name][0]:.3f} and {shifts[name][1]:.3f} in the {name} prompt" for name in worst_first)
    sentences = [
        f"At matched eval loss ({arm} {losses[0]:.4f}, {reference} {losses[1]:.4f}), {'; '.join(verdicts)}.",
        f"Log-likelihoods of choices moved from the base's by, on average, {moved} (nats, {how_moved(results)}; {arm} "
        f"and {reference}).",
    ]
    if comparison.missed:
        sentences.append(_missed(comparison))
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
            f"nats per token ({drift.bounds(lambda bound: f'{bound:+.2g}', '95% interval ')}): {verdict}."
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
    compared = [found for one in results.comparisons for found in one.mc2.values() if not found.not_estimated]
    if compared:
        limits.append(
            "With so many questions and seeds, a true difference in MC2 is shown four times out of five only if it "
            f"is at least {100 * max(one.detectable for one in compared):.1f} points{_of_primary(results)}."
        )
        if (together := max(one.comparisons for one in compared)) > 1:
            primary = results.study.primary
            others = "" if primary is None else f" but {primary}, named beforehand, whose intervals hold by themselves"
            limits.append(
                f"Of one measure asked in one way the intervals of {'all ' if primary is None else 'the '}{together} "
                f"arms{others} hold together."
            )
    if seeds == 1:
        limits.append("This is one run per arm: intervals cover the choice of questions, not that of seeds.")
    elif alone := [one.arm for one in results.comparisons if len(one.reached) == 1]:
        limits.append(f"Of {', '.join(alone)} one seed is compared: its intervals do not cover the choice of seeds.")
    return limits


def _of_primary(results: Results) -> str:
    """What the primary comparison can show, which is judged by itself."""
    found = [
        f"{100 * difference.detectable:.1f} ({prompt})"
        for one in results.comparisons
        if one.arm == results.study.primary
        for prompt, difference in one.mc2.items()
        if not difference.not_estimated
    ]
    return f", for {results.study.primary} {', '.join(found)}" if found else ""


def matched_rows(results: Results, comparison: Comparison) -> tuple[list[Measurement], list[Measurement]]:
    """The measurements of an arm and of the reference at their matched pair, in the order of ``reached``."""

    def row(arm: str, seed: int, role: str, matched_with: str | None) -> Measurement:
        wanted = arm, seed, role, matched_with
        return next(one for one in results.measurements if (one.arm, one.seed, one.role, one.matched_with) == wanted)

    arm, reference = comparison.arm, comparison.reference
    return (
        [row(arm, seed, "matched", None) for seed in comparison.reached],
        [row(reference, seed, "matched reference", arm) for seed in comparison.reached],
    )


def loss_of(results: Results, row: Measurement) -> float:
    """The loss that was trained: over the whole text or over the answer."""
    return row.eval_loss_whole if results.study.loss_on == "whole" else row.eval_loss_answer


def mean_loss(results: Results, rows: list[Measurement]) -> float:
    """Mean over seeds of the loss that was trained."""
    return fmean(loss_of(results, row) for row in rows)


def mean_shift(rows: list[Measurement], prompt: PromptName) -> float:
    """Mean over seeds of how far log-likelihoods of choices moved, in nats."""
    return fmean(row.retention[prompt].moved or 0.0 for row in rows)


def how_moved(results: Results) -> str:
    """``centred``, or ``raw`` in runs before a common offset of a question's choices was left out."""
    kept = [one for row in results.measurements for one in row.retention.values()]
    return "centred" if any(one.shift_centred is not None for one in kept) else "raw"


def shift_words(results: Results) -> str:
    """What the shift is."""
    less = ", less what all choices of a question moved by together" if how_moved(results) == "centred" else ""
    return f"mean absolute change of a choice's log-likelihood from the base's{less}"


def shift_ratio(results: Results, comparison: Comparison, prompt: PromptName) -> float:
    """How many times as far as with the reference log-likelihoods of choices moved with the arm."""
    ours, theirs = (mean_shift(rows, prompt) for rows in matched_rows(results, comparison))
    if not theirs:
        return float("inf") if ours else 1.0
    return ours / theirs


def stopped_losses(results: Results, comparison: Comparison) -> list[float | None]:
    """For each seed, how far the reference gets without diverging more from the base on general text than the arm does.

    The lowest eval loss among the reference's measured checkpoints that diverge at most as much as the arm at its
    matched one; None if all of them diverge more. Empty when the study does not measure drift.
    """
    found: list[float | None] = []
    for row in matched_rows(results, comparison)[0]:
        if row.drift is not None:
            reached = [
                mean_loss(results, [one])
                for one in results.measurements
                if (one.arm, one.seed) == (comparison.reference, row.seed)
                and one.drift is not None
                and one.drift.kl <= row.drift.kl
            ]
            found.append(min(reached, default=None))
    return found


def _listed(seeds: list[int]) -> str:
    return ", ".join(map(str, seeds))


def stopped_words(results: Results, comparison: Comparison) -> str:
    """Mean of :func:`stopped_losses` over the seeds in which some checkpoint diverges as little."""
    found = stopped_losses(results, comparison)
    reached = [loss for loss in found if loss is not None]
    if not reached:
        return "none diverges so little"
    return f"{fmean(reached):.4f}" + (f" ({len(reached)} of {len(found)} seeds)" if len(reached) < len(found) else "")
