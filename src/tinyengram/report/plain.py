"""A scorecard without a page: for the terminal, and as Markdown for a model card and for what is copied."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tinyengram.report.scorecard import Line, Scorecard

if TYPE_CHECKING:
    from rich.table import Table

_CHANGE = "Change (95% interval)"


def scorecard_table(card: Scorecard) -> Table:
    """For a terminal."""
    from rich.markup import escape
    from rich.table import Table

    table = Table(*(escape(heading) for heading in _headings(card)))
    group = ""
    for line in card.lines:
        if group and line.group != group:
            table.add_section()
        table.add_row(line.group if line.group != group else "", *(escape(text) for text in _texts(card, line)))
        group = line.group
    return table


def scorecard_markdown(card: Scorecard) -> str:
    """For a model card, an issue or a message."""
    headings = _headings(card)
    lines = [_row(headings), _row(["---"] * 2 + ["--:"] * (len(headings) - 2))]
    group = ""
    for line in card.lines:
        lines.append(_row([f"**{line.group}**" if line.group != group else "", *_texts(card, line)]))
        group = line.group
    if not card.of_one_model:
        notes = [f"{column.name}: {column.note}." for column in card.columns if column.note]
        lines += ["", " ".join([card.legend, *notes])]
    return "\n".join(lines)


def _headings(card: Scorecard) -> list[str]:
    names = [column.name for column in card.columns]
    return ["", "", *names, _CHANGE, ""] if card.of_one_model else ["", "", *names]


def _texts(card: Scorecard, line: Line) -> list[str]:
    """The label and figures of a line; of a single model also what changed."""
    label = f"{line.label} ({line.unit})" if line.unit else line.label
    if card.of_one_model:
        before, after = line.cells
        return [label, before.text, after.text, after.change, after.verdict]
    return [label, *(f"{cell.text} {cell.dot}".strip() for cell in line.cells)]


def _row(texts: list[str]) -> str:
    """A line of a Markdown table; what would end a cell or begin HTML is written out."""
    safe = (text.replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;").replace("\n", " ") for text in texts)
    return f"| {' | '.join(safe)} |"
