"""The pictures of a study, each a plotly figure that is readable on a light and on a dark page."""

from __future__ import annotations

from typing import Any

from tinyengram.scoring.probes import PromptName
from tinyengram.study.frontier import unbeaten
from tinyengram.study.matching import eval_loss
from tinyengram.study.results import Measurement, Results

# Okabe and Ito's palette: told apart with any kind of colour vision.
_COLOURS = ("#E69F00", "#0072B2", "#009E73", "#CC79A7", "#D55E00", "#56B4E9", "#F0E442")
_DASHES = ("solid", "dash", "dot")
_SYMBOLS = ("circle", "square", "triangle-up")
# A logarithmic axis has no zero: an arm that moved nothing is drawn here.
_LEAST_SHIFT = 1e-4
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
                **_named(figure, results, trajectory.arm, trajectory.seed),
                mode="lines+markers",
                line={**_line(results, trajectory.arm), "width": 2.5},
                hovertemplate="step %{x}: %{y:.4f}<extra>%{fullData.name}</extra>",
            )
        )
    matched = [row for row in results.measurements if row.role in ("matched", "matched reference")]
    figure.add_trace(_rings([row.step for row in matched], [_loss(results, row) for row in matched], matched, results))
    _style(figure, "Optimizer step", f"Eval loss on the {_loss_name(loss_on)}, nats")
    figure.update_yaxes(type="log", dtick="D1" if _narrow(results) else "D2", tickformat=".2~f")
    return figure


def retention_figure(results: Results, prompt: PromptName) -> Any:
    """MC2 asked in one way against eval loss: learned more to the right, kept more upwards.

    With one seed bars are 95% intervals over questions. The grey line joins the checkpoints that no other arm beats.
    """
    import plotly.graph_objects as go

    figure = go.Figure()
    base = results.measurements[0]
    figure.add_hline(y=base.retention[prompt].mc2, line={"color": _BASE_COLOUR, "dash": "dot", "width": 1.5})
    arms: dict[tuple[str, int | None], dict[int, Measurement]] = {}
    for row in results.measurements:
        arms.setdefault((row.arm, row.seed), {})[row.step] = row
    reached = [(_loss(results, row), row.retention[prompt].mc2) for rows in arms.values() for row in rows.values()]
    edge = [reached[index] for index in unbeaten(reached)]
    figure.add_trace(
        go.Scatter(
            x=[loss for loss, _ in edge],
            y=[mc2 for _, mc2 in edge],
            name="not beaten",
            mode="lines",
            line={"color": _BASE_COLOUR, "width": 7, "shape": "vh"},
            opacity=0.3,
            hoverinfo="skip",
        )
    )
    for (arm, seed), by_step in arms.items():
        rows = [by_step[step] for step in sorted(by_step)]
        deltas = [row.retention[prompt].delta_mc2 for row in rows]
        figure.add_trace(
            go.Scatter(
                x=[_loss(results, row) for row in rows],
                y=[row.retention[prompt].mc2 for row in rows],
                **({"name": results.study.base.name} if seed is None else _named(figure, results, arm, seed)),
                mode="markers+lines" if seed is not None else "markers",
                marker={
                    "color": _line(results, arm)["color"],
                    "size": 11,
                    "symbol": "diamond" if seed is None else _nth(_SYMBOLS, results, arm),
                },
                line={**_line(results, arm), "width": 1.5},
                error_y={
                    "type": "data",
                    "symmetric": False,
                    "array": [delta.high - delta.mean if delta else 0 for delta in deltas],
                    "arrayminus": [delta.mean - delta.low if delta else 0 for delta in deltas],
                    "thickness": 1.5,
                    "width": 6,
                    "visible": len(results.study.seeds) == 1,
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
        f"Eval loss on the {_loss_name(results.study.loss_on)}, nats",
        "MC2 (bars: 95% interval)" if len(results.study.seeds) == 1 else "MC2",
    )
    figure.update_xaxes(type="log", autorange="reversed", dtick="D2", tickformat=".2~f")
    return figure


def difference_figure(results: Results) -> Any:
    """What each arm kept of MC2 more than the reference at matched loss, in points, for each way of asking."""
    import plotly.graph_objects as go

    figure = go.Figure()
    compared = [one for one in results.comparisons if one.reached]
    for at, prompt in enumerate(results.study.truthfulqa.prompts):
        differences = [one.mc2[prompt] for one in compared]
        figure.add_trace(
            go.Scatter(
                x=[100 * one.mean for one in differences],
                y=[line + _offset(results, at) for line in range(len(compared))],
                name=f"{prompt} prompt",
                mode="markers",
                marker={"color": _COLOURS[at], "size": 10},
                error_x={
                    "type": "data",
                    "symmetric": False,
                    "array": [100 * (one.high - one.mean) for one in differences],
                    "arrayminus": [100 * (one.mean - one.low) for one in differences],
                    "thickness": 1.5,
                    "width": 4,
                },
                customdata=[one.arm for one in compared],
                hovertemplate="%{x:+.1f} points<extra>%{customdata}, %{fullData.name}</extra>",
            )
        )
    figure.add_vline(x=0, line={"color": _BASE_COLOUR, "dash": "dot", "width": 1.5})
    _style(figure, f"MC2 kept more than {results.study.reference}, points (bars: 95% interval)", "")
    _by_arm(figure, [one.arm for one in compared])
    return figure


def shift_figure(results: Results) -> Any:
    """How far each arm moved log-likelihoods of choices from the base's at matched loss, every seed."""
    import plotly.graph_objects as go

    figure = go.Figure()
    arms = list(results.study.arms)
    matched = [row for row in results.measurements if row.role in ("matched", "matched reference")]
    matched = list({(row.arm, row.seed, row.step): row for row in matched}.values())
    for at, prompt in enumerate(results.study.truthfulqa.prompts):
        figure.add_trace(
            go.Scatter(
                x=[max(row.retention[prompt].shift or 0.0, _LEAST_SHIFT) for row in matched],
                y=[arms.index(row.arm) + _offset(results, at) for row in matched],
                name=f"{prompt} prompt",
                mode="markers",
                marker={"color": _COLOURS[at], "size": 10, "opacity": 0.75},
                customdata=[[f"{row.arm}, seed {row.seed}", row.retention[prompt].shift] for row in matched],
                hovertemplate="%{customdata[1]:.4f} nats<extra>%{customdata[0]}, %{fullData.name}</extra>",
            )
        )
    _style(figure, "Mean absolute shift of a choice's log-likelihood, nats", "")
    figure.update_xaxes(type="log")
    _by_arm(figure, arms)
    return figure


def _offset(results: Results, prompt: int) -> float:
    """Where in an arm's line a way of asking is drawn, so that none hides another."""
    return 0.24 * (prompt - (len(results.study.truthfulqa.prompts) - 1) / 2)


def _by_arm(figure: Any, arms: list[str]) -> None:
    """A line for each arm, from top to bottom."""
    lines = {"tickvals": list(range(len(arms))), "ticktext": arms, "range": [len(arms) - 0.5, -0.5]}
    figure.update_yaxes(**lines, automargin=True)
    figure.update_layout(height=160 + 40 * len(arms))


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
            "line": {"width": 2.5, "color": [_line(results, row.arm)["color"] for row in rows]},
        },
        hoverinfo="skip",
    )


def _line(results: Results, arm: str) -> dict[str, str]:
    """An arm's colour, and once those are used up its dashes."""
    if arm == "base":
        return {"color": _BASE_COLOUR, "dash": "solid"}
    index = list(results.study.arms).index(arm)
    return {"color": _COLOURS[index % len(_COLOURS)], "dash": _nth(_DASHES, results, arm)}


def _nth(kinds: tuple[str, ...], results: Results, arm: str) -> str:
    """One of some kinds, another one each time that the colours are used up."""
    return kinds[list(results.study.arms).index(arm) // len(_COLOURS) % len(kinds)]


def _named(figure: Any, results: Results, arm: str, seed: int | None) -> dict[str, Any]:
    """Name of a run, which is shown or hidden with the arm's others; the legend names the first that is drawn."""
    first = all(trace.legendgroup != arm for trace in figure.data)
    several = len(results.study.seeds) > 1
    return {
        "name": f"{arm}, seed {seed}" if several and not first else arm,
        "legendgroup": arm,
        "showlegend": first,
    }


def _loss(results: Results, row: Measurement) -> float:
    return row.eval_loss_whole if results.study.loss_on == "whole" else row.eval_loss_answer


def _loss_name(loss_on: str) -> str:
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
