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


KNOWLEDGE_HEADINGS = ("Model", "Step", "Set", "Asked in", "Right", "Chance", "Change, points (95% interval)")


def knowledge_rows(results: Results) -> list[TableRow]:
    """One row a checkpoint, choice set and way of asking; empty when the study does not ask."""
    rows, seen = [], set()
    for row in results.measurements:
        key = (row.arm, row.seed, row.step)
        if key in seen:
            continue
        seen.add(key)
        for name, by_prompt in row.accuracy.items():
            for prompt, found in by_prompt.items():
                change, chance = found.delta_acc_norm, results.data.choice_sets[name].chance
                shown = f"{points(change.mean)} ({points(change.low)} to {points(change.high)})" if change else "–"
                cells = (*_named(results, row), name, prompt, f"{found.acc_norm:.1%}", f"{chance:.1%}", shown)
                rows.append(TableRow(row.role.replace(" ", "-"), cells))
    return rows


DRIFT_HEADINGS = ("Model", "Step", "KL from the base, nats per token", "Perplexity")


def drift_rows(results: Results) -> list[TableRow]:
    """One row a checkpoint: predictions on general text; empty when the study does not ask."""
    rows, seen = [], set()
    for row in results.measurements:
        key = (row.arm, row.seed, row.step)
        if row.drift is not None and key not in seen:
            seen.add(key)
            cells = (*_named(results, row), f"{row.drift.kl:.2g}", f"{row.drift.perplexity:.2f}")
            rows.append(TableRow(row.role.replace(" ", "-"), cells))
    return rows


@dataclass(frozen=True)
class FurtherTable:
    """A table beside the experiment's own: what a study asked for besides TruthfulQA."""

    title: str
    caption: str
    headings: tuple[str, ...]
    rows: list[TableRow]


def further_tables(results: Results) -> list[FurtherTable]:
    """Knowledge, drift on general text and generated calls, as far as the study asks for them."""
    tables = []
    if rows := knowledge_rows(results):
        labels = "; ".join(one.label for one in results.data.choice_sets.values())
        caption = f"{labels}. Right: highest log-likelihood per character."
        tables.append(FurtherTable("What is still known", caption, KNOWLEDGE_HEADINGS, rows))
    if rows := drift_rows(results):
        caption = f"{results.data.texts_label}, KL(base‖model)."
        tables.append(FurtherTable("Drift on general text", caption, DRIFT_HEADINGS, rows))
    if rows := call_rows(results):
        calls = next(row.calls for row in results.measurements if row.calls is not None)
        caption = (
            f"Greedy answers to {calls.wanted_asked} held-out requests, parsed and compared with the allowed functions "
            f"and arguments, and to {calls.unwanted_asked} requests that none of the offered tools fits."
        )
        tables.append(FurtherTable("Are the calls right?", caption, CALL_HEADINGS, rows))
    return tables


def terminal_tables(results: Results) -> list[Table]:
    """The tables for a terminal: the experiment's, with the question set in its title, and the further ones."""
    title = f"{results.study.name}: {results.data.question_label}"
    tables = [_terminal_table(title, HEADINGS, table_rows(results))]
    tables += [_terminal_table(one.title, one.headings, one.rows) for one in further_tables(results)]
    return tables


def _terminal_table(title: str, headings: Sequence[str], rows: Sequence[TableRow]) -> Table:
    from rich.table import Table

    table = Table(title=title, title_justify="left")
    for heading in headings:
        table.add_column(heading, justify="left" if heading in ("Model", "Set", "Asked in") else "right")
    styles = {"matched": "bold green", "matched-reference": "bold", "last": "dim"}
    for row in rows:
        table.add_row(*row.cells, style=styles.get(row.kind, ""))
    return table
