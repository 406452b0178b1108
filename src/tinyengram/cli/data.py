"""``tinyengram data``: look before you train."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from rich.console import Console

    from tinyengram.tasks.preview import Preview


def data(
    file: Annotated[str, typer.Argument(help="A json, jsonl or parquet file, a folder of them, a Hub id, or bfcl.")],
    base: Annotated[
        str | None, typer.Option(help="Whose tokenizer and chat template: an embedded name, a folder or a Hub id.")
    ] = None,
    format: Annotated[str, typer.Option(help="How the rows are written; auto finds it out.")] = "auto",
    learn: Annotated[str, typer.Option(help="Which assistant turns: all, calls or last.")] = "all",
    template: Annotated[str, typer.Option(help="tokenizer (its own chat template) or chatml.")] = "tokenizer",
    max_length: Annotated[int, typer.Option(min=2, help="In tokens; longer turns are left out.")] = 2048,
    max_bad_rows: Annotated[int, typer.Option(min=0, help="Malformed rows that are put up with.")] = 0,
    show: Annotated[int, typer.Option(min=0, help="Examples to show as the model will see them.")] = 3,
    as_json: Annotated[bool, typer.Option("--json", help="Print the account as JSON, and nothing else.")] = False,
) -> None:
    """Say what would be learnt from a file, what would be left out and why, and show a few examples.

    Nothing is trained. Without --base, conversations are read but not written in tokens.
    """
    from rich.console import Console

    from tinyengram.cli.progress import prepare_process
    from tinyengram.sources import load_tokenizer
    from tinyengram.tasks.preview import preview

    prepare_process()
    found = preview(
        file,
        tokenizer=None if base is None else load_tokenizer(base),
        format=format,
        learn=learn,
        template=template,
        max_length=max_length,
        max_bad_rows=max_bad_rows,
        show=show,
    )
    if as_json:
        for remark in found.remarks:
            print(f"tinyengram: {remark}", file=sys.stderr)
        print(json.dumps(found.account(), ensure_ascii=False))
        return
    _print(Console(width=None if sys.stdout.isatty() else 120), found)


def _print(console: Console, found: Preview) -> None:
    from rich.table import Table
    from rich.text import Text

    console.print(f"{found.rows} rows, read as {found.format}: {found.conversations} conversations", highlight=False)
    learnt = f"Learnt: {found.turns} turns of the assistant with {found.calls} calls"
    if found.tokens is not None:
        learnt += f", {found.tokens} tokens in {found.examples} texts"
    console.print(learnt, highlight=False)
    if found.left_out:
        table = Table("Left out", "What", "Why", "First at")
        for one in found.left_out:
            # What a file says is shown as text, never as markup.
            table.add_row(str(one.count), one.what, Text(one.reason), Text(one.first))
        console.print(table)
    else:
        console.print("Nothing is left out.", highlight=False)
    for remark in found.remarks:
        console.print(Text(f"Note: {remark}"))
    if found.rendering is None:
        console.print("Name a --base to see the texts as its model will read them.", highlight=False)
        return
    console.print(Text(f"Rendering: {found.rendering}"))
    for number, pieces in enumerate(found.shown, start=1):
        console.rule(f"example {number}: {found.shown_ids[number - 1]}; what is learnt is marked", characters="-")
        text = Text()
        for piece, is_learnt in pieces:
            # In a log there are no colours: the brackets say the same.
            marked = f"⟦{piece}⟧" if is_learnt and not console.is_terminal else piece
            text.append(marked, style="bold green" if is_learnt else "")
        console.print(text)
