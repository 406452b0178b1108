"""``report.html``: one page that works alone and without a script. First what was found, then what it rests on."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from tinyengram.report.changed import changed_answers
from tinyengram.report.columns import Column
from tinyengram.report.figures import Figure, figures
from tinyengram.report.palette import palette_css
from tinyengram.report.plain import scorecard_markdown
from tinyengram.report.respondents import respondent
from tinyengram.report.runs import Run, joined_columns
from tinyengram.report.scorecard import Scorecard, scorecard
from tinyengram.report.sides import calls_by_side
from tinyengram.report.svg import symbol
from tinyengram.report.table import FurtherTable, all_tables
from tinyengram.report.telling import headline, in_words
from tinyengram.study.evaluation import Evaluation
from tinyengram.study.results import DataAccount, Results
from tinyengram.training.trajectory import held_in_words

if TYPE_CHECKING:
    from jinja2 import Environment


@dataclass(frozen=True)
class Part:
    """What one run gives to a page beside its columns.

    Attributes:
        name: Of the run; a heading where a page has several.
        content: For what was trained or asked, on what.
        figures, tables: Its own.
    """

    name: str
    content: Results | Evaluation
    figures: list[Figure]
    tables: list[FurtherTable]

    @property
    def of_study(self) -> bool:
        return isinstance(self.content, Results)


def render_page(runs: Sequence[Run]) -> str:
    """The report on one run, or on several side by side.

    Args:
        runs: At least one; their folders hold questions and answers.

    Returns:
        The page; everything shown is escaped.

    Raises:
        TinyEngramError: The runs cannot stand side by side.
    """
    columns, by_arm = joined_columns(runs)
    card = scorecard(columns)
    title, lead, sentences = _opening(runs, card)
    respondents = [respondent(column.name, column.rows[0], column.folder) for column in columns if column.rows]
    environment = _environment()
    return environment.get_template("page.html").render(
        card=card,
        parts=[_part(run, own) for run, own in zip(runs, by_arm, strict=True)],
        title=title,
        lead=lead,
        sentences=sentences,
        anchors=_anchors([column.name for column in card.columns]),
        answers=changed_answers(respondents),
        calls=calls_by_side(respondents),
        styles={column.name: column.style for column in columns if column.style is not None},
        markdown="\n\n".join([f"**{title}** {' · '.join(lead)}", *sentences, scorecard_markdown(card)]),
        css=Markup(stylesheet("sections.css")),
        script=Markup("".join([_text("page.js"), _text("sections.js")])),
    )


def stylesheet(own: str) -> str:
    """The styles of every page, and those of a page's own file."""
    return "".join([palette_css(), _text("page.css"), _text(own)])


def _opening(runs: Sequence[Run], card: Scorecard) -> tuple[str, list[str], list[str]]:
    """The question, of what in a few words each, and the answer."""
    first = runs[0].content
    base, data = first.provenance.base.public_name, first.data.data.public_name
    if len(runs) > 1:
        told = [sentence for run in runs for sentence in _answer(run)]
        return "What did each of them break?", [base, data, f"{len(runs)} runs"], told
    if isinstance(first, Results):
        seeds = len(first.study.seeds)
        lead = [base, data, f"{seeds} seeds" if seeds > 1 else "one seed", first.study.name]
        return asked(first.data), lead, headline(first) if first.comparisons else [in_words(card)]
    return "What did it break?", [first.model.arm, first.method, f"on {base}", data], [first.finding]


def _answer(run: Run) -> list[str]:
    if isinstance(run.content, Results) and run.content.comparisons:
        return [f"{run.name}: {sentence}" for sentence in headline(run.content)]
    return [f"{run.name}: {in_words(scorecard(run.columns()))}"]


def _part(run: Run, columns: Mapping[str, Column]) -> Part:
    if isinstance(run.content, Results):
        return Part(run.name, run.content, list(figures(run.content, columns)), all_tables(run.content))
    return Part(run.name, run.content, [], [])


def asked(data: DataAccount) -> str:
    """The question that a page answers."""
    return "What did learning tool calls break?" if data.learnt_calls or not data.format else "What did learning break?"


def _environment() -> Environment:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("tinyengram.report", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals.update(symbol=symbol, minutes=_minutes, arm_facts=_arm_facts)
    environment.tests["base"] = _is_base
    return environment


def _anchors(names: Sequence[str]) -> dict[str, str]:
    """Each name as a part of an id, unlike any other's."""
    anchors: dict[str, str] = {}
    for name in names:
        plain = re.sub(r"[^A-Za-z0-9_-]+", "-", name)
        anchors[name] = f"{plain}-{len(anchors)}" if plain in anchors.values() else plain
    return anchors


def _is_base(column: Column) -> bool:
    return column.is_base


def _text(name: str) -> str:
    return files("tinyengram.report").joinpath(name).read_text(encoding="utf-8")


def _minutes(seconds: float) -> str:
    return f"{int(seconds) // 60} min {int(seconds) % 60:02d} s"


def _arm_facts(results: Results) -> list[dict[str, Any]]:
    """What was trained, an arm a row; means over seeds."""
    facts = []
    for name, arm in results.study.arms.items():
        runs = [trajectory for trajectory in results.trajectories if trajectory.arm == name]
        last = [run.points[-1] for run in runs]
        facts.append(
            {
                "name": name,
                "arm": arm,
                "learning_rate": f"{runs[0].learning_rate:g}",
                "parameters": f"{runs[0].trainable_parameters:,}",
                "tokens": f"{last[0].tokens:,}",
                "steps": last[0].step,
                "seconds": sum(point.seconds for point in last) / len(last),
                "held": held_in_words(runs[0]),
            }
        )
    return facts
