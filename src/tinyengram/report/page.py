"""One self-contained page: the table first, then the pictures, then what was run, on what and in how long."""

from __future__ import annotations

from importlib.resources import files
from typing import Any

from tinyengram.report.figures import loss_figure, retention_figure
from tinyengram.report.table import HEADINGS, further_tables, table_rows
from tinyengram.study.results import Results

_NUMERIC_FROM = 1


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
    return template.render(
        results=results,
        study=results.study,
        headings=HEADINGS,
        rows=table_rows(results),
        further_tables=further_tables(results),
        figures=[
            ("loss", "How fast each arm learned", _html(loss_figure(results), "loss")),
            *(
                (
                    name,
                    f"Kept at equal loss, asked in the {name} prompt (bars: 95% interval of the change from the base)",
                    _html(figure, f"retention-{at}"),
                )
                for at, (name, figure) in enumerate(
                    (name, retention_figure(results, name)) for name in results.study.truthfulqa.prompts
                )
            ),
        ],
        arms=[_arm_facts(results, name) for name in results.study.arms],
        plotly=plotly.offline.get_plotlyjs(),
        minutes=lambda seconds: f"{int(seconds) // 60} min {int(seconds) % 60:02d} s",
    )


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
        "settings": results.study.settings(name),
        "parameters": f"{runs[0].trainable_parameters:,}",
        "tokens": f"{last[0].tokens:,}",
        "steps": last[0].step,
        "seconds": sum(point.seconds for point in last) / len(last),
    }
