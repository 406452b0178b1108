"""``tinyengram edit``: take back what a memory was taught."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tinyengram.cli.exits import interruptible
from tinyengram.errors import TinyEngramError

_SHOWN = 20


def edit(
    adapter: Annotated[Path, typer.Argument(help="The folder of an adapter with a memory; it is not changed.")],
    out: Annotated[Path, typer.Option(help="Receives the edited adapter; a new folder.")],
    forget: Annotated[
        list[str] | None, typer.Option(help="An n-gram, or a text whose every n-gram is taken back; may be repeated.")
    ] = None,
    keep_only: Annotated[list[str] | None, typer.Option(help="Everything else is taken back; may be repeated.")] = None,
    merge: Annotated[
        Path | None, typer.Option(help="Take in another exact memory with the same projections and other n-grams.")
    ] = None,
    base: Annotated[str | None, typer.Option(help="The adapter's base, if not the one that it names.")] = None,
    data: Annotated[
        str | None, typer.Option(help="Chats to measure on, before and after; default: what `train` noted in run/.")
    ] = None,
    calls: Annotated[int, typer.Option(min=0, help="Held-out requests to answer, before and after.")] = 16,
) -> None:
    """Take rows of a memory back: where only they spoke, the model is its base again, to the bit."""
    from rich.console import Console

    from tinyengram.cli.progress import prepare_process
    from tinyengram.files import write_atomically
    from tinyengram.report.card import edited_card
    from tinyengram.report.texts import shown
    from tinyengram.serving import load_served
    from tinyengram.serving.editing import editor_of, keep_what_lies_beside, refuse_folder, take_back
    from tinyengram.serving.editing import merge as take_in
    from tinyengram.study.held_out import data_of, measure
    from tinyengram.training.job import DataSpec

    if sum(bool(one) for one in (forget, keep_only, merge)) != 1:
        raise TinyEngramError("Say one thing to do: --forget TEXT, --keep-only TEXT or --merge ADAPTER.")
    refuse_folder(out)
    output = Console(stderr=False)
    with interruptible("Interrupted; nothing was written."):
        prepare_process()
        served = load_served(str(adapter), base=base)
        editor_of(served)  # Refused before anything is measured.
        spec = DataSpec(name=data) if data is not None else data_of(adapter)
        lines = []
        if spec is not None:
            lines.append(f"Before: {measure(served.model, served.tokenizer, spec, calls=calls)}.")
        if merge is not None:
            edited = take_in(served, load_served(str(merge), base=base))
        else:
            edited = take_back(served, forget or keep_only or [], keep=bool(keep_only))
        if spec is not None:
            lines.append(f"After: {measure(served.model, served.tokenizer, spec, calls=calls)}.")
        served.model.save_pretrained(str(out))
        keep_what_lies_beside(adapter, served, out)
        write_atomically(out / "README.md", edited_card(adapter.resolve().name, edited.sentence, lines))
    for ngram in edited.ngrams[:_SHOWN]:
        output.print(f"  “{shown(ngram, 80)}”", highlight=False, markup=False)
    if len(edited.ngrams) > _SHOWN:
        output.print(f"  and {len(edited.ngrams) - _SHOWN} more", highlight=False)
    for line in (edited.sentence, *lines, f"Adapter: {out}"):
        output.print(line, highlight=False, markup=False, soft_wrap=True)
