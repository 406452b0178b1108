"""The experiment's table: as rows for the page, and in the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tinyengram.study.finding import points
from tinyengram.study.plan import PromptName
from tinyengram.study.results import Measurement, Results

if TYPE_CHECKING:
    from rich.table import Table

HEADINGS = (
    "Model",
    "Step",
    "Eval loss, answer",
    "Eval loss, whole text",
    "Asked in",
    "MC1",
    "MC2",
    "ΔMC2, points (95% interval)",
    "Shift, nats",
)


@dataclass(frozen=True)
class TableRow:
    """One checkpoint asked in one way, as text; ``kind`` says what the checkpoint is for colouring."""

    kind: str
    cells: tuple[str, ...]


def table_rows(results: Results) -> list[TableRow]:
    """Rows in the order in which they are read: base, each matched pair, the reference trained on."""
    rows, seen = [], set()
    for measurement in results.measurements:
        # A reference checkpoint that is matched to several arms is one row.
        key = (measurement.arm, measurement.role, measurement.seed, measurement.step)
        if key not in seen:
            seen.add(key)
            kind = measurement.role.replace(" ", "-")
            rows += [TableRow(kind, _cells(results, measurement, prompt)) for prompt in measurement.retention]
    return rows


def _cells(results: Results, row: Measurement, prompt: PromptName) -> tuple[str, ...]:
    learned = (*_named(results, row), f"{row.eval_loss_answer:.4f}", f"{row.eval_loss_whole:.4f}")
    kept, delta = row.retention[prompt], row.retention[prompt].delta_mc2
    return (
        # What was learned is said once for each checkpoint.
        *(learned if prompt == next(iter(row.retention)) else ("",) * len(learned)),
        prompt,
        f"{kept.mc1:.4f}",
        f"{kept.mc2:.4f}",
        f"{points(delta.mean)} ({points(delta.low)} to {points(delta.high)})" if delta else "–",
        f"{kept.shift:.3f}" if kept.shift is not None else "–",
    )


def _named(results: Results, row: Measurement) -> tuple[str, str]:
    """Model and step."""
    name = {"base": results.study.base.name, "last": f"{row.arm}, trained on"}.get(row.role, row.arm)
    if len(results.study.seeds) > 1 and row.seed is not None:
        name += f" (seed {row.seed})"
    return name, str(row.step) if row.seed is not None else "–"


CALL_HEADINGS = ("Model", "Step", "Parses", "Right functions", "Right calls", "Refrains where no tool fits")


def call_rows(results: Results) -> list[TableRow]:
    """One row a checkpoint: whether its generated calls are right; empty when the study does not ask."""
    rows, seen = [], set()
    for row in results.measurements:
        key = (row.arm, row.seed, row.step)
        if row.calls is not None and key not in seen:
            seen.add(key)
            refrains = "–" if row.calls.refrains is None else f"{row.calls.refrains:.0%}"
            shares = (f"{value:.0%}" for value in (row.calls.parses, row.calls.functions, row.calls.right))
            rows.append(TableRow(row.role.replace(" ", "-"), (*_named(results, row)[:2], *shares, refrains)))
    return rows


def terminal_tables(results: Results) -> list[Table]:
    """The tables for a terminal: what was kept, with the question set in its title, and whether calls are right."""
    title = f"{results.study.name}: {results.data.question_label}"
    tables = [_terminal_table(title, HEADINGS, table_rows(results))]
    if calls := call_rows(results):
        tables.append(_terminal_table("Generated calls", CALL_HEADINGS, calls))
    return tables


def _terminal_table(title: str, headings: Sequence[str], rows: Sequence[TableRow]) -> Table:
    from rich.table import Table

    table = Table(title=title, title_justify="left")
    for heading in headings:
        table.add_column(heading, justify="left" if heading in ("Model", "Asked in") else "right")
    styles = {"matched": "bold green", "matched-reference": "bold", "last": "dim"}
    for row in rows:
        table.add_row(*row.cells, style=styles.get(row.kind, ""))
    return table
