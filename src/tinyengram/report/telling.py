"""A scorecard in two or three sentences that follow from its numbers and say no more than they."""

from __future__ import annotations

import math
from collections.abc import Sequence

from tinyengram.report.scorecard import Cell, Line, Scorecard
from tinyengram.scoring.probes import PromptName
from tinyengram.study.finding import points, shift_ratio
from tinyengram.study.results import Comparison, Measurement, Results

_TOLD = 2
"""Arms that are named of those that moved less; the others are counted."""


def headline(results: Results) -> list[str]:
    """What a study of several arms found, for who reads nothing else: what moved, where no tool fits, and MC2."""
    reached = [one for one in results.comparisons if one.reached]
    sentences = [_moved(results, reached, prompt) for prompt in results.study.truthfulqa.prompts if reached]
    sentences += [_declined(results), _kept(results, reached)]
    missed = [one.arm for one in results.comparisons if not one.reached]
    if missed:
        sentences.append(f"Never came down to {results.study.reference}'s loss: {', '.join(missed)}.")
    return [sentence for sentence in sentences if sentence]


def _moved(results: Results, reached: Sequence[Comparison], prompt: PromptName) -> str:
    """Of the arms that are shown to have moved answers less or more far, the farthest off are named."""
    reference = results.study.reference
    shown = [(shift_ratio(results, one, prompt), one) for one in reached if one.moved[prompt].shown]
    less = sorted((pair for pair in shown if pair[1].moved[prompt].mean < 0), key=lambda pair: pair[0])
    more = sorted((pair for pair in shown if pair[1].moved[prompt].mean > 0), key=lambda pair: -pair[0])
    where = f"Asked in the {prompt} prompt, at equal loss"
    if not shown:
        if len(reached) == 1:
            (only,) = reached
            times = _times(shift_ratio(results, only, prompt))
            return f"{where}, {only.arm} moved answers {times} as far as {reference} (not shown)."
        return f"{where}, no arm is shown to have moved answers less or more far than {reference}."
    (ratio, first), *further = [*less[:_TOLD], *more[:1]]
    told = [f"{first.arm} moved answers {_times(ratio)} as far as {reference}"]
    told += [f"{one.arm} {_times(ratio)}" for ratio, one in further]
    others = len(reached) - len(told)
    more_shown = len(shown) - len(told)
    rest = f"; of {others} others {more_shown} shown" if others and more_shown else ""
    return f"{where}, {', '.join(told)} (shown{rest})."


def _times(ratio: float) -> str:
    """How many times as far, as a fraction below one half."""
    if ratio == 0:
        return "0 times"
    if math.isinf(ratio):  # It moved nothing.
        return "infinitely"
    return f"{ratio:.1f} times" if ratio > 0.5 else f"1/{1 / ratio:.0f}"


def _declined(results: Results) -> str:
    """Whether a tool is called where none fits: the base, the reference after its last step, the best other arm."""
    base, reference = results.measurements[0], results.study.reference
    if base.calls is None or base.calls.refrains is None:
        return ""
    asked = base.calls.unwanted_asked

    def declines(arm: str) -> float | None:
        rows = [row for row in results.measurements if row.arm == arm and row.role in ("matched", "last")]
        found = [row.calls.refrains for row in rows if row.calls is not None and row.calls.refrains is not None]
        return sum(found) / len(found) if found else None

    shares = {arm: share for arm in results.study.arms if (share := declines(arm)) is not None}
    told = [f"the base declined {base.calls.refrains:.0%}"]
    if reference in shares:
        told.append(f"{reference} {shares[reference]:.0%}")
    best = max((arm for arm in shares if arm != reference), key=lambda arm: shares[arm], default=None)
    if best is not None:
        told.append(f"{best} {shares[best]:.0%}" + (" (the most)" if len(shares) > 2 else ""))
    return f"Of {asked} requests that no tool fits {', '.join(told)}."


def _kept(results: Results, reached: Sequence[Comparison]) -> str:
    """Whether any difference in MC2 is shown, and how large one would have had to be."""
    pairs = [(one.arm, prompt, found) for one in reached for prompt, found in one.mc2.items()]
    if not pairs:
        return ""
    shown = [f"{arm} {points(found.mean)} points ({prompt})" for arm, prompt, found in pairs if found.shown]
    if shown:
        more = f" and {len(shown) - _TOLD} more" if len(shown) > _TOLD else ""
        return f"Of MC2 {', '.join(shown[:_TOLD])}{more} against {results.study.reference} (shown)."
    estimated = [found for _, _, found in pairs if not found.not_estimated]
    if not estimated:
        return f"Of no arm an interval of MC2 is estimated: {pairs[0][2].not_estimated}."
    least = 100 * max(found.detectable for found in estimated)
    return f"No difference in MC2 is shown: {estimated[0].questions} questions show one of {least:.0f} points or more."


def in_words(card: Scorecard) -> str:
    """What one model learnt and what is shown to have changed from its base, in two or three sentences."""
    *_, model = card.columns
    base, now = card.columns[0].rows[0], model.rows[0]
    told = [(line, line.cells[0], line.cells[-1]) for line in card.lines]
    said = [_loss_told(base, now)]
    said += [
        f"{line.label[0].lower()}{line.label[1:]} ({line.unit}): {before.text} before, {after.text} now"
        for line, before, after in told
        if line.id in ("right-calls", "declines")
    ]
    judged = [(line, cell) for line, _, cell in told if cell.verdict in ("better", "worse", "not shown")]
    sentences = ["; ".join(said) + "."]
    for verdict in ("worse", "better"):
        if shown := _changes(judged, verdict):
            sentences.append(f"Shown to be {verdict}, in points: {shown}.")
    if same := [line.label for line, _, cell in told if cell.verdict == "same"]:
        sentences.append(f"Unchanged from the base, to the bit: {'; '.join(same)}.")
    unshown = sum(cell.verdict == "not shown" for _, cell in judged)
    if unshown:
        sentences.append(
            f"Of {len(judged)} measures of what else it knows {unshown} show no difference; that is no proof that "
            "there is none, and the intervals say how large one may be."
        )
    return " ".join(sentences)


def _loss_told(base: Measurement, now: Measurement) -> str:
    before, after = base.eval_loss_answer, now.eval_loss_answer
    if after >= before:
        return f"Nothing was learnt: loss on the answers is {after:.3f}, the base's {before:.3f}"
    return f"Loss on the answers fell from {before:.3f} to {after:.3f}"


def _changes(judged: Sequence[tuple[Line, Cell]], verdict: str) -> str:
    return "; ".join(f"{line.label} ({cell.change})" for line, cell in judged if cell.verdict == verdict)
