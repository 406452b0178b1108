"""The experiment's table: as rows for the page, and in the terminal."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from tinyengram.study.finding import points
from tinyengram.study.results import Measurement, Results

if TYPE_CHECKING:
    from rich.table import Table

HEADINGS = (
    "Model",
    "Step",
    "Eval loss, answer",
    "Eval loss, whole text",
    "MC1",
    "MC2",
    "ΔMC2, points (95% interval)",
    "Shift, nats",
)


@dataclass(frozen=True)
class TableRow:
    """One checkpoint as text; ``kind`` says what it is for colouring."""

    kind: str
    cells: tuple[str, ...]


def table_rows(results: Results) -> list[TableRow]:
    """Rows in the order in which they are read: base, each matched pair, the reference trained on."""
    rows, seen = [], set()
    several = len(results.study.seeds) > 1
    for measurement in results.measurements:
        # A reference checkpoint that is matched to several arms is one row.
        key = (measurement.arm, measurement.role, measurement.seed, measurement.step)
        if key not in seen:
            seen.add(key)
            rows.append(TableRow(measurement.role.replace(" ", "-"), _cells(results, measurement, several)))
    return rows


def _cells(results: Results, row: Measurement, several_seeds: bool) -> tuple[str, ...]:
    name = {"base": results.study.base.name, "last": f"{row.arm}, trained on"}.get(row.role, row.arm)
    if several_seeds and row.seed is not None:
        name += f" (seed {row.seed})"
    delta = row.delta_mc2
    return (
        name,
        str(row.step) if row.seed is not None else "–",
        f"{row.eval_loss_answer:.4f}",
        f"{row.eval_loss_whole:.4f}",
        f"{row.mc1:.4f}",
        f"{row.mc2:.4f}",
        f"{points(delta.mean)} ({points(delta.low)} to {points(delta.high)})" if delta else "–",
        f"{row.shift:.3f}" if row.shift is not None else "–",
    )


def terminal_table(results: Results) -> Table:
    """The table for a terminal, with the question set in its title."""
    from rich.table import Table

    table = Table(title=f"{results.study.name}: {results.data.question_label}", title_justify="left")
    for index, heading in enumerate(HEADINGS):
        table.add_column(heading, justify="left" if index == 0 else "right")
    styles = {"matched": "bold green", "matched-reference": "bold", "last": "dim"}
    for row in table_rows(results):
        table.add_row(*row.cells, style=styles.get(row.kind, ""))
    return table
