"""``tinyengram ngrams``: how large a memory for somebody's chats should be."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from tinyengram.cli.exits import interruptible
from tinyengram.errors import TinyEngramError

if TYPE_CHECKING:
    from rich.console import Console

    from tinyengram.study.advice import NgramAdvice


def ngrams(
    file: Annotated[str, typer.Argument(help="A json, jsonl or parquet file, a folder of them, a Hub id, or bfcl.")],
    base: Annotated[str, typer.Option(help="Whose tokenizer, chat template and sizes, as for `data`.")],
    orders: Annotated[str, typer.Option(help="Orders of the n-grams, with commas between.")] = "2,3,4",
    format: Annotated[str, typer.Option(help="How the rows are written; auto finds it out.")] = "auto",
    learn: Annotated[str, typer.Option(help="Which assistant turns: all, calls or last.")] = "all",
    template: Annotated[str, typer.Option(help="tokenizer (its own chat template) or chatml.")] = "tokenizer",
    max_length: Annotated[int, typer.Option(min=2, help="In tokens; longer turns are left out.")] = 2048,
    max_bad_rows: Annotated[int, typer.Option(min=0, help="Malformed rows that are put up with.")] = 0,
    eval_fraction: Annotated[
        float | None, typer.Option(help="Share that is held out; default: as in a study without one.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the advice as JSON, and nothing else.")] = False,
) -> None:
    """Count the n-grams of chats as a study would train them, and advise the sizes of a memory.

    Nothing is trained, and the base's weights are not loaded.
    """
    from rich.console import Console

    from tinyengram.cli.progress import Live, prepare_process
    from tinyengram.study.advice import advise_ngrams

    with interruptible("Interrupted."):
        prepare_process()
        with Live(Console(stderr=True)) as live:
            advice = advise_ngrams(
                file,
                base,
                orders=_orders(orders),
                format=format,
                learn=learn,
                template=template,
                max_length=max_length,
                max_bad_rows=max_bad_rows,
                eval_fraction=eval_fraction,
                on_event=live.show,
            )
    for remark in advice.remarks:
        print(f"tinyengram: {remark}", file=sys.stderr)
    if as_json:
        print(advice.model_dump_json())
    else:
        _print(Console(width=None if sys.stdout.isatty() else 120), advice)


def _orders(text: str) -> list[int]:
    try:
        return [int(part) for part in text.split(",")]
    except ValueError as error:
        raise TinyEngramError(f"orders={text!r}: give whole numbers with commas between, such as 2,3,4.") from error


def _print(console: Console, advice: NgramAdvice) -> None:
    from rich.table import Table

    console.print(
        f"{advice.train_texts} texts with {advice.train_answer_tokens} learnt tokens are counted, "
        f"{advice.held_out_texts} with {advice.held_out_answer_tokens} are held out.",
        highlight=False,
    )
    for one in advice.left_out:
        console.print(f"Not counted: {one.count} {one.what}, {one.reason}.", highlight=False, markup=False)
    counts = Table("Order", "Known", "Seen once", "Seen on average", "Held-out tokens covered", "In whole texts")
    for each in advice.orders:
        once = each.seen_once / max(1, each.known)
        counts.add_row(
            str(each.order), f"{each.known:,}", f"{once:.0%}", f"{each.mean_count:.1f}", f"{each.coverage:.1%}",
            f"{each.anywhere:,}",
        )  # fmt: skip
    console.print(counts)
    exact = Table("n_embed_per_ngram", "Rows", "Tables, MiB", "Projections, MiB", "Optimizer, MiB", title="exact")
    for choice in advice.exact:
        exact.add_row(
            str(choice.n_embed_per_ngram),
            f"{choice.rows:,}",
            *_mib(choice.tables_mib, choice.projections_mib, choice.optimizer_mib),
        )
    console.print(exact)
    hashed = Table(
        "engram_vocab_size", "Share a row", "… in every head", "Rows", "Tables, MiB", "Optimizer, MiB", "",
        title="hashed",
    )  # fmt: skip
    for sizes in advice.hashed:
        hashed.add_row(
            ", ".join(map(str, sizes.engram_vocab_size)),
            ", ".join(f"{share:.0%}" for share in sizes.sharing),
            ", ".join(f"{share:.2%}" for share in sizes.sharing_everywhere),
            f"{sizes.rows:,}",
            *_mib(sizes.tables_mib, sizes.optimizer_mib),
            "advised" if sizes.advised else "",
        )
    console.print(hashed)
    for title, config in (("exact", advice.exact_config), ("hashed", advice.hashed_config)):
        console.rule(title, characters="-")
        console.print(f"{config.python}\n\n{config.study}", highlight=False, markup=False, soft_wrap=True)


def _mib(*sizes: float) -> list[str]:
    return [f"{size:,.1f}" for size in sizes]
