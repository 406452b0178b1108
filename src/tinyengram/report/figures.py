"""The pictures of a study as inline SVG, each for a wide and for a narrow screen; an arm is drawn alike in all."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise

from markupsafe import Markup

from tinyengram.report.columns import Column
from tinyengram.report.svg import Drawing, scale_over
from tinyengram.scoring.probes import PromptName
from tinyengram.study.finding import loss_of, matched_rows
from tinyengram.study.frontier import unbeaten
from tinyengram.study.matching import eval_loss
from tinyengram.study.results import Measurement, Results

WIDE, NARROW = 1140, 348


@dataclass(frozen=True)
class Figure:
    """A picture.

    Attributes:
        id: Anchor on the page.
        title: What it answers.
        caption: How it is read.
        wide, narrow: SVG for each width of screen.
    """

    id: str
    title: str
    caption: str
    wide: Markup
    narrow: Markup


def figures(results: Results, columns: Mapping[str, Column]) -> Iterator[Figure]:
    """All pictures that a study has something to show in; what was kept comes before how it was learnt.

    Args:
        results: What to draw.
        columns: Of the page, by the arm's name in the study: how each arm is drawn.
    """
    from tinyengram.report.forests import difference_figure, shift_figure

    if any(one.reached for one in results.comparisons):
        yield shift_figure(results, columns)
        yield difference_figure(results, columns)
    for at, prompt in enumerate(results.study.truthfulqa.prompts):
        yield retention_figure(results, columns, prompt, at)
    yield loss_figure(results, columns)


def both_widths(id: str, title: str, caption: str, draw: Callable[[int], Drawing]) -> Figure:
    """A figure from what draws it at a width in pixels."""
    return Figure(id, title, caption, draw(WIDE).markup("picture wide"), draw(NARROW).markup("picture narrow"))


def loss_figure(results: Results, columns: Mapping[str, Column]) -> Figure:
    """Eval loss against optimizer step for every arm and seed, on a logarithmic axis, matched checkpoints ringed."""
    loss_on = results.study.loss_on
    title = "How fast each arm learned"

    def draw(width: int) -> Drawing:
        height, left, top = 380, 56, 30
        drawing = Drawing(width, height, title, _losses_in_words(results))
        stops = [(point.step, eval_loss(point, loss_on)) for one in results.trajectories for point in one.points]
        x = scale_over((step for step, _ in stops), left, width - 14, margin=0.03)
        y = scale_over((loss for _, loss in stops), height - 48, top, log=True)
        drawing.x_axis(x, "Optimizer steps", height - 48, top)
        drawing.y_axis(y, f"Eval loss on the {loss_name(loss_on)}, nats per token", left, width - 14)
        for run in results.trajectories:
            style = columns[run.arm].style
            assert style is not None
            drawing.open_arm(columns[run.arm].name)
            at = [(point.step, eval_loss(point, loss_on)) for point in run.points]
            at = [(step, loss) for step, loss in at if math.isfinite(loss) and loss > 0]
            drawing.path([(x(step), y(loss)) for step, loss in at], f"line {style.css_class}", dash=style.dash)
            for step, loss in at:
                said = f"{_run_name(results, run.arm, run.seed)}, step {step}: {loss:.4f} nats"
                drawing.mark(x(step), y(loss), style, said)
            drawing.close()
        for row in _matched(results):
            drawing.ring(x(row.step), y(loss_of(results, row)), columns[row.arm].css_class)
        return drawing

    caption = "A ring: a checkpoint that is compared at matched loss. One line a seed." if _several(results) else (
        "A ring: a checkpoint that is compared at matched loss."
    )  # fmt: skip
    return both_widths("figure-loss", title, caption, draw)


def retention_figure(results: Results, columns: Mapping[str, Column], prompt: PromptName, at: int) -> Figure:
    """MC2 asked in one way against eval loss, over the losses that were measured after training.

    Learnt more is to the right, kept more is up. Matched pairs are joined; the broad grey line joins what no other
    checkpoint beats. With one seed bars are 95% intervals over questions.
    """
    base = results.measurements[0].retention[prompt].mc2
    rows = {(row.arm, row.seed, row.stop): row for row in results.measurements[1:]}
    title = f"Kept at equal loss, asked in the {prompt} prompt"

    def draw(width: int) -> Drawing:
        height, left, top = 380, 56, 30
        drawing = Drawing(width, height, title, _kept_in_words(results, prompt))
        losses = [loss_of(results, row) for row in rows.values()]
        bounds = [bound for row in rows.values() for bound in _mc2_with_bounds(results, row, prompt)]
        x = scale_over(losses, width - 14, left, log=True)
        y = scale_over([base, *bounds], height - 48, top)
        drawing.x_axis(x, f"Eval loss on the {loss_name(results.study.loss_on)}, nats per token", height - 48, top)
        drawing.y_axis(y, "MC2", left, width - 14)
        drawing.line((left, y(base), width - 14, y(base)), "base-line")
        drawing.text(left + 4, y(base) - 5, "base", css_class="note", anchor="start")
        reached = [(loss_of(results, row), row.retention[prompt].mc2) for row in rows.values()]
        edge = sorted(reached[index] for index in unbeaten(reached))
        steps = [edge[:1], *([(loss, kept), (loss, mc2)] for (_, kept), (loss, mc2) in pairwise(edge))]
        drawing.path([(x(loss), y(mc2)) for step in steps for loss, mc2 in step], "edge")
        for comparison in results.comparisons:
            for ours, theirs in zip(*matched_rows(results, comparison), strict=True):
                ends = [(x(loss_of(results, row)), y(row.retention[prompt].mc2)) for row in (ours, theirs)]
                drawing.path(ends, "pair")
        for arm in results.study.arms:
            drawing.open_arm(columns[arm].name)
            for row in (row for row in rows.values() if row.arm == arm):
                _draw_kept(drawing, results, row, prompt, (x(loss_of(results, row)), y), columns[arm])
            drawing.close()
        return drawing

    caption = (
        "Learnt more is to the right, kept more is up. A thin line joins a matched pair; the broad one what no other "
        "checkpoint beats."
    )
    if not _several(results):
        caption += " Bars: 95% interval of the change from the base, over questions."
    return both_widths(f"figure-kept-{at}", title, caption, draw)


def _draw_kept(
    drawing: Drawing,
    results: Results,
    row: Measurement,
    prompt: PromptName,
    place: tuple[float, Callable[[float], float]],
    column: Column,
) -> None:
    at, y = place
    mc2, low, high = _mc2_with_bounds(results, row, prompt)
    if low != high:
        drawing.line((at, y(low), at, y(high)), f"bar-line {column.css_class}")
    name = _run_name(results, row.arm, row.seed)
    drawing.mark(at, y(mc2), column.style, f"{name}, step {row.step}: loss {loss_of(results, row):.4f}, MC2 {mc2:.1%}")


def _mc2_with_bounds(results: Results, row: Measurement, prompt: PromptName) -> tuple[float, float, float]:
    """MC2 and the ends of its bar; the value itself where several seeds show the spread or there is no interval."""
    kept = row.retention[prompt]
    if kept.delta_mc2 is None or kept.delta_mc2.not_estimated or _several(results):
        return kept.mc2, kept.mc2, kept.mc2
    return kept.mc2, kept.mc2 + kept.delta_mc2.low - kept.delta_mc2.mean, kept.mc2 + (
        kept.delta_mc2.high - kept.delta_mc2.mean
    )  # fmt: skip


def _matched(results: Results) -> list[Measurement]:
    """Checkpoints of matched pairs, each once."""
    rows = [row for row in results.measurements if row.role in ("matched", "matched reference")]
    return list({(row.arm, row.seed, row.stop): row for row in rows}.values())


def _losses_in_words(results: Results) -> str:
    ends = (
        f"{_run_name(results, run.arm, run.seed)} from {eval_loss(run.points[0], run.loss_on):.3f} to "
        f"{eval_loss(run.points[-1], run.loss_on):.3f} in {run.points[-1].step} steps"
        for run in results.trajectories
    )
    return f"Eval loss: {'; '.join(ends)}."


def _kept_in_words(results: Results, prompt: PromptName) -> str:
    told = (
        f"{_run_name(results, row.arm, row.seed)} {row.retention[prompt].mc2:.1%} at {loss_of(results, row):.3f}"
        for row in _matched(results)
    )
    return f"MC2 of the base {results.measurements[0].retention[prompt].mc2:.1%}; {'; '.join(told)}."


def _run_name(results: Results, arm: str, seed: int | None) -> str:
    return f"{arm}, seed {seed}" if _several(results) else arm


def _several(results: Results) -> bool:
    return len(results.study.seeds) > 1


def loss_name(loss_on: str) -> str:
    """What the loss is taken over."""
    return "whole text" if loss_on == "whole" else "answer"
