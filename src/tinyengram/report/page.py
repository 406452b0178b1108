"""One self-contained page: the table first, then the pictures, then what was run, on what and in how long."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.resources import files
from typing import Any

from tinyengram.report.figures import difference_figure, loss_figure, retention_figure, shift_figure
from tinyengram.report.table import further_tables, headings, table_rows
from tinyengram.study.results import Results

# From so many rows on the first table is folded up and the comparison of the arms leads.
_LONG_TABLE = 30


def render_page(results: Results) -> str:
    """The report as HTML that works without a network; everything shown is escaped.

    Args:
        results: What ``results.json`` holds.

    Returns:
        The page.
    """
    import plotly.offline
    from jinja2 import Environment, StrictUndefined

    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    template = environment.from_string(files("tinyengram.report").joinpath("page.html").read_text())
    rows = table_rows(results)
    return template.render(
        results=results,
        study=results.study,
        headings=headings(results),
        rows=rows,
        folded=len(rows) > _LONG_TABLE,
        further_tables=further_tables(results),
        figures=[(title, _html(figure, name)) for name, title, figure in _figures(results)],
        arms=[_arm_facts(results, name) for name in results.study.arms],
        plotly=plotly.offline.get_plotlyjs(),
        minutes=lambda seconds: f"{int(seconds) // 60} min {int(seconds) % 60:02d} s",
    )


def _figures(results: Results) -> Iterator[tuple[str, str, Any]]:
    """Name, title and picture of each figure; the answer to the study's question comes first when it has many parts."""
    several = len(results.comparisons) > 1 or len(results.study.seeds) > 1
    if several and any(one.reached for one in results.comparisons):
        reference = results.study.reference
        yield "difference", f"What each arm kept more than {reference} at equal loss", difference_figure(results)
        title = f"How far each arm moved answers that it was not taught, where its loss is matched with {reference}'s"
        yield "shift", title, shift_figure(results)
    yield "loss", "How fast each arm learned", loss_figure(results)
    for at, prompt in enumerate(results.study.truthfulqa.prompts):
        title = f"Kept at equal loss, asked in the {prompt} prompt"
        if len(results.study.seeds) == 1:
            title += " (bars: 95% interval of the change from the base)"
        yield f"retention-{at}", title, retention_figure(results, prompt)


def _html(figure: Any, name: str) -> str:
    """A figure's division and script; plotly writes it as JSON in which ``<`` is escaped."""
    return figure.to_html(
        full_html=False,
        include_plotlyjs=False,
        div_id=f"figure-{name}",
        config={"displayModeBar": False, "responsive": True},
    )


def _arm_facts(results: Results, name: str) -> dict[str, Any]:
    runs = [trajectory for trajectory in results.trajectories if trajectory.arm == name]
    last = [run.points[-1] for run in runs]
    return {
        "name": name,
        "arm": results.study.arms[name],
        "learning_rate": runs[0].learning_rate,
        "parameters": f"{runs[0].trainable_parameters:,}",
        "tokens": f"{last[0].tokens:,}",
        "steps": last[0].step,
        "seconds": sum(point.seconds for point in last) / len(last),
    }
