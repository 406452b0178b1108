"""The experiment's table: as rows for the page, and in the terminal."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import TYPE_CHECKING

from tinyengram.scoring.probes import PromptName
from tinyengram.study.finding import (
    how_moved,
    matched_rows,
    mean_loss,
    points,
    shift_ratio,
    shift_words,
    stopped_losses,
    stopped_words,
)
from tinyengram.study.matching import eval_loss, late_train_loss
from tinyengram.study.results import Measurement, Results
from tinyengram.study.statistics import Difference
from tinyengram.tasks.calls.judging import Outcome

if TYPE_CHECKING:
    from rich.table import Table


def headings(results: Results) -> tuple[str, ...]:
    """Of the experiment's table."""
    spread = _spread(results)
    learned = "Model", "Step", "Eval loss, answer", "Eval loss, whole text"
    return *learned, "Asked in", "MC1", "MC2", f"ΔMC2, points ({spread})", f"Shift, nats, {how_moved(results)}"


def _spread(results: Results) -> str:
    """What stands in brackets behind a change from the base."""
    return "95% interval" if len(results.study.seeds) == 1 else "range over seeds"


@dataclass(frozen=True)
class TableRow:
    """One line of a table as text; ``kind`` says what it is about, for colouring."""

    kind: str
    cells: tuple[str, ...]


@dataclass(frozen=True)
class FurtherTable:
    """A table beside the experiment's own."""

    title: str
    caption: str
    headings: tuple[str, ...]
    rows: list[TableRow]


def table_rows(results: Results) -> list[TableRow]:
    """Rows in the order in which they are read: base, each matched pair, the reference trained on."""
    rows = []
    for group in _groups(results):
        kind = group[0].role.replace(" ", "-")
        rows += [TableRow(kind, _cells(results, group, prompt)) for prompt in group[0].retention]
    return rows


def further_tables(results: Results) -> list[FurtherTable]:
    """Differences between arms, and knowledge, drift on general text and generated calls as far as a study asks."""
    tables = []
    reference = results.study.reference
    if rows := _comparison_rows(results):
        all_arms = "all arms" if results.study.primary is None else f"all arms but {results.study.primary}"
        caption = (
            f"Differences in percentage points, arm minus {reference}; of one measure asked in one way the intervals "
            f"of {all_arms} hold together. Shift: {shift_words(results)}, arm minus {reference} and as a multiple "
            "of it."
        )
        if results.study.levels > 1:
            caption += (
                " On the way: mean over the logarithm of the loss, from the base down to the matched loss, along "
                "straight lines between the measured checkpoints."
            )
        if any(stopped_losses(results, one) for one in results.comparisons):
            caption += (
                f" At equal KL: the lowest loss of a measured checkpoint of {reference} that diverges from the base on "
                "general text no more than the arm does."
            )
        tables.append(
            FurtherTable(f"Each arm against {reference} at matched loss", caption, _comparison_headings(results), rows)
        )
    if rows := _knowledge_rows(results):
        labels = "; ".join(one.label for one in results.data.choice_sets.values())
        caption = f"{labels}. Right: highest log-likelihood per character."
        changed = f"Change, points ({_spread(results)})"
        tables.append(FurtherTable("What is still known", caption, (*KNOWLEDGE_HEADINGS, changed), rows))
    if rows := _drift_rows(results):
        caption = f"{results.data.texts_label}, KL(base‖model)."
        tables.append(FurtherTable("Drift on general text", caption, DRIFT_HEADINGS, rows))
    if rows := _call_rows(results):
        calls = next(row.calls for row in results.measurements if row.calls is not None)
        caption = (
            f"Greedy answers to {calls.wanted_asked} held-out requests, read in every common format and compared with "
            f"the allowed functions and arguments, and to {calls.unwanted_asked} requests that none of the offered "
            "tools fits. Each answer has one outcome; what is empty or degenerate does not count as declining."
        )
        tables.append(FurtherTable("Are the calls right?", caption, CALL_HEADINGS, rows))
    if rows := _rate_rows(results):
        caption = (
            "Tried with the first seed; the lowest mean training loss at the stops in the second half of a run "
            "decides. It is what was minimised, with the divergence from the base where an arm is held to it."
        )
        tables.append(FurtherTable("Learning rates", caption, RATE_HEADINGS, rows))
    return tables


def all_tables(results: Results) -> list[FurtherTable]:
    """The further tables, and the experiment's own behind them."""
    spread = (
        f", interval over {results.data.questions_asked} questions (paired bootstrap)"
        if len(results.study.seeds) == 1
        else f"; {results.data.questions_asked} questions, means over seeds"
    )
    loss = "whole text" if results.study.loss_on == "whole" else "answer"
    caption = (
        f"{results.data.question_label}. Eval losses in nats per token on {results.data.eval_examples} held-out "
        f"examples. ΔMC2 against the base in percentage points{spread}. Asked in the probe's own plain prompt, and in "
        f"the training data's chat template. Shift: {shift_words(results)}. Rows of a "
        f"matched pair are at equal eval loss ({loss}), the arm never above {results.study.reference}."
    )
    return [*further_tables(results), FurtherTable("Every checkpoint", caption, headings(results), table_rows(results))]


def _groups(results: Results) -> list[list[Measurement]]:
    """What a table shows in one line: a checkpoint; of a study with several seeds the same one over all seeds."""
    groups: dict[tuple, list[Measurement]] = {}
    for row in results.measurements:
        if row.role != "level":
            groups.setdefault((row.arm, row.role, row.matched_with), []).append(row)
    shown: dict[tuple, list[Measurement]] = {}
    for (arm, role, partner), rows in groups.items():
        # A reference checkpoint that is matched to several arms is shown once.
        first = shown.setdefault((arm, role, *((row.seed, row.stop) for row in rows)), [*rows])
        if first[0].matched_with != partner:
            first[0] = first[0].model_copy(update={"matched_with": f"{first[0].matched_with}, {partner}"})
    return list(shown.values())


def _by_checkpoint(results: Results) -> list[list[Measurement]]:
    """The same, each checkpoint once whatever its role."""
    shown: dict[tuple, list[Measurement]] = {}
    for rows in _groups(results):
        shown.setdefault((rows[0].arm, *((row.seed, row.stop) for row in rows)), rows)
    return list(shown.values())


def _cells(results: Results, group: list[Measurement], prompt: PromptName) -> tuple[str, ...]:
    learned = (
        *_named(results, group),
        f"{fmean(row.eval_loss_answer for row in group):.4f}",
        f"{fmean(row.eval_loss_whole for row in group):.4f}",
    )
    kept = [row.retention[prompt] for row in group]
    shifts = [one.moved for one in kept if one.moved is not None]
    return (
        # What was learned is said once for each checkpoint.
        *(learned if prompt == next(iter(group[0].retention)) else ("",) * len(learned)),
        prompt,
        f"{fmean(one.mc1 for one in kept):.4f}",
        f"{fmean(one.mc2 for one in kept):.4f}",
        _change(results, [one.delta_mc2 for one in kept]),
        f"{fmean(shifts):.3f}" if shifts else "–",
    )


def _change(results: Results, deltas: Sequence[Difference | None]) -> str:
    """A change from the base with its interval; of a study with several seeds their mean and range."""
    known = [delta for delta in deltas if delta is not None]
    if not known:
        return "–"
    if len(results.study.seeds) == 1:
        return _interval(known[0])
    means = [delta.mean for delta in known]
    return f"{points(fmean(means))} ({points(min(means))} to {points(max(means))})"


def _interval(difference: Difference) -> str:
    return f"{points(difference.mean)} ({difference.bounds(points)})"


def _named(results: Results, group: list[Measurement]) -> tuple[str, str]:
    """Model and step."""
    first = group[0]
    name = {"base": results.study.base.name, "last": f"{first.arm}, trained on"}.get(first.role, first.arm)
    if first.matched_with and len(results.study.seeds) > 1:
        name += f", matched to {first.matched_with}"
    steps = [row.step for row in group]
    if first.seed is None:
        return name, "–"
    return name, str(steps[0]) if len(set(steps)) == 1 else f"{min(steps)} to {max(steps)}"


def _comparison_headings(results: Results) -> tuple[str, ...]:
    reference = results.study.reference
    headings = ["Arm", f"Eval loss, its own and {reference}'s", "Asked in", "MC1, points", "MC2, points (95% interval)"]
    if results.study.levels > 1:
        headings.append("MC2 on the way, points (95% interval)")
    headings += [f"Shift, nats, {how_moved(results)} (95% interval)", "Shift, ratio"]
    if any(stopped_losses(results, one) for one in results.comparisons):
        headings.append(f"Eval loss of {reference} at equal KL")
    return tuple(headings)


def _comparison_rows(results: Results) -> list[TableRow]:
    """One row an arm and way of asking; empty when only two arms with one seed make the experiment's own table."""
    if len(results.comparisons) < 2 and len(results.study.seeds) < 2:
        return []
    rows = []
    for one in results.comparisons:
        ours, theirs = matched_rows(results, one)
        for at, prompt in enumerate(one.mc2):
            losses = f"{mean_loss(results, ours):.4f}, {mean_loss(results, theirs):.4f}"
            cells = [*((one.arm, losses) if not at else ("", "")), prompt]
            cells += [points(one.mc1[prompt].mean), _interval(one.mc2[prompt])]
            if results.study.levels > 1:
                cells.append(_interval(one.area[prompt]))
            moved = one.moved[prompt]
            bounds = moved.bounds(lambda bound: f"{bound:+.3g}")
            cells += [f"{moved.mean:+.3g} ({bounds})".replace("-", "\N{MINUS SIGN}")]
            cells.append(f"{shift_ratio(results, one, prompt):.3g}")
            if any(stopped_losses(results, other) for other in results.comparisons):
                cells.append("" if at else stopped_words(results, one))
            rows.append(TableRow("matched" if one.mc2[prompt].low > 0 else "", tuple(cells)))
    return rows


CALL_HEADINGS = (
    "Model",
    "Step",
    "Readable as taught",
    "Right functions",
    "Right calls",
    "Declines where no tool fits",
    "What else was said where a call is wanted",
    "Where no tool fits",
)


def _call_rows(results: Results) -> list[TableRow]:
    """One row a checkpoint: whether its generated calls are right; empty when the study does not ask."""
    rows = []
    for group in _by_checkpoint(results):
        calls = [row.calls for row in group if row.calls is not None]
        if calls:
            shares = [fmean(getattr(one, share) for one in calls) for share in ("parses", "functions", "right")]
            refrains = [one.refrains for one in calls if one.refrains is not None]
            other = (
                _other_outcomes(_added([one.outcomes for one in calls]), "right call"),
                _other_outcomes(_added([one.unwanted_outcomes for one in calls]), "declines in prose"),
            )
            cells = (*(f"{share:.0%}" for share in shares), f"{fmean(refrains):.0%}" if refrains else "–", *other)
            rows.append(TableRow(group[0].role.replace(" ", "-"), (*_named(results, group), *cells)))
    return rows


def _added(counts: Sequence[Mapping[Outcome, int]]) -> Counter[Outcome]:
    """Outcomes of several seeds together."""
    return sum((Counter(one) for one in counts), Counter())


def _other_outcomes(counts: Counter[Outcome], expected: Outcome) -> str:
    """Shares of the outcomes other than the expected one, most frequent first."""
    total = counts.total()
    told = [f"{outcome} {count / total:.0%}" for outcome, count in counts.most_common() if outcome != expected]
    return ", ".join(told) or "–"


KNOWLEDGE_HEADINGS = ("Model", "Step", "Set", "Asked in", "Right", "Chance")


def _knowledge_rows(results: Results) -> list[TableRow]:
    """One row a checkpoint, choice set and way of asking; empty when the study does not ask."""
    rows = []
    for group in _by_checkpoint(results):
        for name, by_prompt in group[0].accuracy.items():
            for prompt in by_prompt:
                found = [row.accuracy[name][prompt] for row in group]
                shares = (f"{fmean(one.acc_norm for one in found):.1%}", f"{results.data.choice_sets[name].chance:.1%}")
                cells = (
                    *_named(results, group),
                    name,
                    prompt,
                    *shares,
                    _change(results, [one.delta_acc_norm for one in found]),
                )
                rows.append(TableRow(group[0].role.replace(" ", "-"), cells))
    return rows


DRIFT_HEADINGS = ("Model", "Step", "KL from the base, nats per token", "Perplexity")


def _drift_rows(results: Results) -> list[TableRow]:
    """One row a checkpoint: predictions on general text; empty when the study does not ask."""
    rows = []
    for group in _by_checkpoint(results):
        drifts = [row.drift for row in group if row.drift is not None]
        if drifts:
            means = f"{fmean(one.kl for one in drifts):.2g}", f"{fmean(one.perplexity for one in drifts):.2f}"
            rows.append(TableRow(group[0].role.replace(" ", "-"), (*_named(results, group), *means)))
    return rows


RATE_HEADINGS = ("Arm", "Learning rate", "Training loss", "Eval loss at the end", "Taken")


def _rate_rows(results: Results) -> list[TableRow]:
    """One row a learning rate that was tried; empty when the study gives each arm its rate."""
    first = results.study.seeds[0]
    taken = [run for run in results.trajectories if run.seed == first and results.study.arms[run.arm].rates]
    rows = []
    for run in sorted(
        [*taken, *results.trials], key=lambda run: (list(results.study.arms).index(run.arm), run.learning_rate)
    ):
        loss = f"{late_train_loss(run):.4f}", f"{eval_loss(run.points[-1], results.study.loss_on):.4f}"
        rows.append(TableRow("", (run.arm, f"{run.learning_rate:g}", *loss, "yes" if run in taken else "")))
    return rows


def terminal_tables(results: Results) -> list[Table]:
    """The tables for a terminal: the experiment's, with the question set in its title, and the further ones."""
    title = f"{results.study.name}: {results.data.question_label}"
    tables = [_terminal_table(title, headings(results), table_rows(results))]
    tables += [_terminal_table(one.title, one.headings, one.rows) for one in further_tables(results)]
    return tables


def _terminal_table(title: str, columns: Sequence[str], rows: Sequence[TableRow]) -> Table:
    from rich.table import Table

    table = Table(title=title, title_justify="left")
    for heading in columns:
        table.add_column(heading, justify="left" if heading in ("Model", "Arm", "Set", "Asked in") else "right")
    styles = {"matched": "bold green", "matched-reference": "bold", "last": "dim"}
    for row in rows:
        table.add_row(*row.cells, style=styles.get(row.kind, ""))
    return table
