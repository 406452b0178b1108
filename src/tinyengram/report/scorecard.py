"""One model against its base in one table: what it learnt, what it broke, how far it moved. For terminals and cards."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from tinyengram.study.finding import points
from tinyengram.study.results import Measurement
from tinyengram.study.statistics import Difference

if TYPE_CHECKING:
    from rich.table import Table

Group = Literal["Learnt", "Broke", "Moved"]
Verdict = Literal["better", "worse", "not shown", "too few", ""]

_RIGHT, _DECLINES = "Right calls", "Declines where no tool fits"
_ENOUGH_QUESTIONS = 10
"""Of fewer an interval says nothing, so none is judged."""

HEADINGS = ("", "", "Base", "Model", "Change (95% interval)", "")


@dataclass(frozen=True)
class ScoreLine:
    """One figure of a scorecard, as text.

    Attributes:
        group: Which question it answers.
        label: What was measured, and how it was asked.
        base, model: The figure before and after; ``–`` where there is none.
        change: With its interval where there is one.
        verdict: Whether a change for the better or worse is shown; empty where no interval says.
    """

    group: Group
    label: str
    base: str
    model: str
    change: str
    verdict: Verdict


def score_lines(base: Measurement, model: Measurement) -> list[ScoreLine]:
    """The scorecard of a model that was measured as its base was."""
    return [*_learnt(base, model), *_broken(base, model), *_moved(model)]


def _learnt(base: Measurement, model: Measurement) -> Iterator[ScoreLine]:
    for label, before, after in (
        ("Eval loss, answers (nats per token)", base.eval_loss_answer, model.eval_loss_answer),
        ("Eval loss, whole texts", base.eval_loss_whole, model.eval_loss_whole),
    ):
        yield ScoreLine(
            "Learnt",
            label,
            f"{before:.4f}",
            f"{after:.4f}",
            f"{after - before:+.4f}".replace("-", "\N{MINUS SIGN}"),
            "",
        )
    if base.calls is not None and model.calls is not None and model.calls.wanted_asked:
        asked = model.calls.wanted_asked
        yield _share("Learnt", f"{_RIGHT}, of {asked}", base.calls.right, model.calls.right)


def _broken(base: Measurement, model: Measurement) -> Iterator[ScoreLine]:
    for prompt, kept in model.retention.items():
        before = base.retention[prompt]
        for name, then, now, change in (
            ("MC1", before.mc1, kept.mc1, kept.delta_mc1),
            ("MC2", before.mc2, kept.mc2, kept.delta_mc2),
        ):
            yield _share("Broke", f"TruthfulQA {name}, {prompt}", then, now, change)
    for one_set, by_prompt in model.accuracy.items():
        for prompt, accuracy in by_prompt.items():
            label, then = f"{one_set}, {prompt}", base.accuracy[one_set][prompt].acc_norm
            yield _share("Broke", label, then, accuracy.acc_norm, accuracy.delta_acc_norm)
    if base.calls is not None and model.calls is not None and model.calls.refrains is not None:
        label = f"{_DECLINES}, of {model.calls.unwanted_asked}"
        yield _share("Broke", label, base.calls.refrains or 0.0, model.calls.refrains)


def _share(group: Group, label: str, before: float, after: float, change: Difference | None = None) -> ScoreLine:
    if change is None:
        return ScoreLine(group, label, f"{before:.1%}", f"{after:.1%}", points(after - before), "")
    told = f"{points(change.mean)} ({points(change.low)} to {points(change.high)})"
    verdict: Verdict = ("better" if change.mean > 0 else "worse") if change.shown else "not shown"
    if change.questions < _ENOUGH_QUESTIONS:
        verdict = "too few"
    return ScoreLine(group, label, f"{before:.1%}", f"{after:.1%}", told, verdict)


def _moved(model: Measurement) -> Iterator[ScoreLine]:
    for prompt, kept in model.retention.items():
        if kept.shift is not None:
            label = f"Log-likelihood of choices, {prompt} (nats)"
            yield ScoreLine("Moved", label, "–", f"{kept.shift:.3f}", "", "")
    if model.drift is not None:
        label = "KL from the base on general text (nats per token)"
        yield ScoreLine("Moved", label, "–", f"{model.drift.kl:.4f}", "", "")


def in_words(base: Measurement, model: Measurement) -> str:
    """What was learnt and what is shown to have changed, in two or three sentences."""
    lines = score_lines(base, model)
    said = [f"Loss on the answers fell from {base.eval_loss_answer:.3f} to {model.eval_loss_answer:.3f}"]
    if model.eval_loss_answer >= base.eval_loss_answer:
        said = [f"Nothing was learnt: loss on the answers is {model.eval_loss_answer:.3f}, the base's "
                f"{base.eval_loss_answer:.3f}"]  # fmt: skip
    generated = [line for line in lines if line.label.startswith((_RIGHT, _DECLINES))]
    said += [f"{line.label[0].lower()}{line.label[1:]}: {line.base} before, {line.model} now" for line in generated]
    worse = [f"{line.label} ({line.change})" for line in lines if line.verdict == "worse"]
    unshown = sum(line.verdict == "not shown" for line in lines)
    judged = sum(line.verdict in ("better", "worse", "not shown") for line in lines)
    better = [f"{line.label} ({line.change})" for line in lines if line.verdict == "better"]
    sentences = ["; ".join(said) + "."]
    if worse:
        sentences.append(f"Shown to be worse, in points: {'; '.join(worse)}.")
    if better:
        sentences.append(f"Shown to be better, in points: {'; '.join(better)}.")
    if unshown:
        sentences.append(
            f"Of {judged} measures of what else it knows {unshown} show no difference; that is no proof that there is "
            "none, and the intervals say how large one may be."
        )
    return " ".join(sentences)


def scorecard_table(base: Measurement, model: Measurement) -> Table:
    """For a terminal."""
    from rich.table import Table

    table = Table(*HEADINGS[:2], *HEADINGS[2:])
    group = ""
    for line in score_lines(base, model):
        if group and line.group != group:
            table.add_section()
        shown = line.group if line.group != group else ""
        table.add_row(shown, line.label, line.base, line.model, line.change, line.verdict)
        group = line.group
    return table


def scorecard_markdown(base: Measurement, model: Measurement) -> str:
    """For a model card."""
    lines = ["| | | Base | Model | Change (95% interval) | |", "|---|---|---|---|---|---|"]
    group = ""
    for line in score_lines(base, model):
        shown = f"**{line.group}**" if line.group != group else ""
        lines.append(f"| {shown} | {line.label} | {line.base} | {line.model} | {line.change} | {line.verdict} |")
        group = line.group
    return "\n".join(lines)
