"""The pictures of a study, each a plotly figure that is readable on a light and on a dark page."""

from __future__ import annotations

from typing import Any

from tinyengram.study.matching import eval_loss
from tinyengram.study.plan import PromptName
from tinyengram.study.results import Measurement, Results

# Okabe and Ito's palette: told apart with any kind of colour vision.
_COLOURS = ("#E69F00", "#0072B2", "#009E73", "#CC79A7", "#D55E00", "#56B4E9", "#F0E442")
_BASE_COLOUR = "#8A8F98"
_TEXT_COLOUR = "#80858E"
_GRID_COLOUR = "rgba(128, 133, 142, 0.22)"


def loss_figure(results: Results) -> Any:
    """Eval loss against optimizer step for every arm and seed, on a logarithmic axis, matched checkpoints marked."""
    import plotly.graph_objects as go

    figure = go.Figure()
    loss_on = results.study.loss_on
    for trajectory in results.trajectories:
        figure.add_trace(
            go.Scatter(
                x=[point.step for point in trajectory.points],
                y=[eval_loss(point, loss_on) for point in trajectory.points],
                name=_label(results, trajectory.arm, trajectory.seed),
                legendgroup=trajectory.arm,
                mode="lines+markers",
                line={"color": _colour(results, trajectory.arm), "width": 2.5},
                hovertemplate="step %{x}: %{y:.4f}<extra>%{fullData.name}</extra>",
            )
        )
    matched = [row for row in results.measurements if row.role in ("matched", "matched reference")]
    figure.add_trace(_rings([row.step for row in matched], [_loss(results, row) for row in matched], matched, results))
    _style(figure, "Optimizer step", f"Eval loss on the {_named(loss_on)}, nats")
    figure.update_yaxes(type="log", dtick="D1" if _narrow(results) else "D2", tickformat=".2~f")
    return figure


def retention_figure(results: Results, prompt: PromptName) -> Any:
    """MC2 asked in one way against eval loss: learned more to the right, kept more upwards; bars are 95% intervals."""
    import plotly.graph_objects as go

    figure = go.Figure()
    base = results.measurements[0]
    figure.add_hline(y=base.retention[prompt].mc2, line={"color": _BASE_COLOUR, "dash": "dot", "width": 1.5})
    arms: dict[tuple[str, int | None], dict[int, Measurement]] = {}
    for row in results.measurements:
        arms.setdefault((row.arm, row.seed), {})[row.step] = row
    for (arm, seed), by_step in arms.items():
        rows = [by_step[step] for step in sorted(by_step)]
        deltas = [row.retention[prompt].delta_mc2 for row in rows]
        figure.add_trace(
            go.Scatter(
                x=[_loss(results, row) for row in rows],
                y=[row.retention[prompt].mc2 for row in rows],
                name=results.study.base.name if seed is None else _label(results, arm, seed),
                mode="markers+lines" if seed is not None else "markers",
                marker={"color": _colour(results, arm), "size": 11, "symbol": "diamond" if seed is None else "circle"},
                line={"color": _colour(results, arm), "width": 1.5, "dash": "dot"},
                error_y={
                    "type": "data",
                    "symmetric": False,
                    "array": [delta.high - delta.mean if delta else 0 for delta in deltas],
                    "arrayminus": [delta.mean - delta.low if delta else 0 for delta in deltas],
                    "thickness": 1.5,
                    "width": 6,
                },
                customdata=[row.step for row in rows],
                hovertemplate="step %{customdata}: loss %{x:.4f}, MC2 %{y:.4f}<extra>%{fullData.name}</extra>",
            )
        )
    matched = [row for row in results.measurements if row.role in ("matched", "matched reference")]
    figure.add_trace(
        _rings(
            [_loss(results, row) for row in matched], [row.retention[prompt].mc2 for row in matched], matched, results
        )
    )
    _style(
        figure,
        f"Eval loss on the {_named(results.study.loss_on)}, nats",
        "MC2 (bars: 95% interval)",
    )
    figure.update_xaxes(type="log", autorange="reversed", dtick="D2", tickformat=".2~f")
    return figure


def _rings(x: list[float], y: list[float], rows: list[Measurement], results: Results) -> Any:
    """A ring around every checkpoint of a matched pair."""
    import plotly.graph_objects as go

    return go.Scatter(
        x=x,
        y=y,
        mode="markers",
        name="matched pair",
        marker={
            "size": 22,
            "color": "rgba(0, 0, 0, 0)",
            "line": {"width": 2.5, "color": [_colour(results, row.arm) for row in rows]},
        },
        hoverinfo="skip",
    )


def _colour(results: Results, arm: str) -> str:
    if arm == "base":
        return _BASE_COLOUR
    return _COLOURS[list(results.study.arms).index(arm) % len(_COLOURS)]


def _label(results: Results, arm: str, seed: int | None) -> str:
    return arm if len(results.study.seeds) == 1 else f"{arm}, seed {seed}"


def _loss(results: Results, row: Measurement) -> float:
    return row.eval_loss_whole if results.study.loss_on == "whole" else row.eval_loss_answer


def _named(loss_on: str) -> str:
    return "whole text" if loss_on == "whole" else "answer"


def _narrow(results: Results) -> bool:
    """Whether all losses lie within a factor of ten."""
    losses = [eval_loss(point, results.study.loss_on) for one in results.trajectories for point in one.points]
    return max(losses) < 10 * min(losses)


def _style(figure: Any, x_title: str, y_title: str) -> None:
    figure.update_layout(
        paper_bgcolor="rgba(0, 0, 0, 0)",
        plot_bgcolor="rgba(0, 0, 0, 0)",
        font={"family": "system-ui, sans-serif", "size": 14, "color": _TEXT_COLOUR},
        margin={"l": 64, "r": 16, "t": 16, "b": 64},
        legend={"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0},
        height=430,
        hovermode="closest",
    )
    figure.update_xaxes(title=x_title, gridcolor=_GRID_COLOUR, zeroline=False, linecolor=_GRID_COLOUR)
    figure.update_yaxes(title=y_title, gridcolor=_GRID_COLOUR, zeroline=False, linecolor=_GRID_COLOUR)
