"""``tinyengram explain``: why a memory spoke."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from tinyengram.cli.exits import interruptible


def explain(
    adapter: Annotated[str, typer.Argument(help="The folder of an adapter with a memory.")],
    text: Annotated[str, typer.Argument(help="A text; with --chat or --tools a message, which is answered.")],
    base: Annotated[str | None, typer.Option(help="The adapter's base, if not the one that it names.")] = None,
    chat: Annotated[bool, typer.Option("--chat", help="Write the text as a message, and have it answered.")] = False,
    tools: Annotated[Path | None, typer.Option(help="A JSON list of functions that may be called; as --chat.")] = None,
    system: Annotated[str, typer.Option(help="Text of the system turn; as --chat.")] = "",
    template: Annotated[str, typer.Option(help="tokenizer (its own chat template) or chatml.")] = "tokenizer",
    max_new_tokens: Annotated[int, typer.Option(min=1, help="The answer is cut there.")] = 128,
    page: Annotated[Path | None, typer.Option(help="Write a page to this file.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print it as JSON, and nothing else.")] = False,
) -> None:
    """Show how far a memory moved each token of a text, the n-grams that it read there, and what the base would say."""
    from rich.console import Console

    from tinyengram.cli.progress import prepare_process
    from tinyengram.files import write_atomically
    from tinyengram.report.explained import coloured, in_words, moved_most, moved_table, render_explained
    from tinyengram.serving import Talk, load_served, load_tools
    from tinyengram.serving.explaining import explain as explain_text
    from tinyengram.serving.explaining import explain_answer
    from tinyengram.tasks.rendering import known_template

    with interruptible("Interrupted."):
        prepare_process()
        kind, offered = known_template(template), load_tools(tools) if tools is not None else ()
        served = load_served(adapter, base=base)
        if chat or offered or system:
            talk = Talk(served, template=kind, tools=offered, system=system)
            explained = explain_answer(talk, text, max_new_tokens=max_new_tokens)
        else:
            explained = explain_text(served, text)
    if page is not None:
        write_atomically(page, render_explained(explained))
    if as_json:
        print(explained.model_dump_json())
        return
    output = Console(width=None if sys.stdout.isatty() else 150)
    output.print(coloured(explained), soft_wrap=True)
    output.print()
    if moved_most(explained):
        output.print(moved_table(explained))
    output.print(in_words(explained), highlight=False, markup=False)
    if page is not None:
        output.print(f"Page: {page}", highlight=False, markup=False, soft_wrap=True)
