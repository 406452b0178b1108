"""``tinyengram evaluate``: what did it break?"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from tinyengram.cli.exits import interruptible


def evaluate(
    model: Annotated[str, typer.Argument(help="Folder of a PEFT adapter, or of a whole fine-tuned model.")],
    base: Annotated[
        str | None, typer.Option(help="What it was trained on; an adapter names its own, a whole model does not.")
    ] = None,
    data: Annotated[
        str | None, typer.Option(help="Chats whose held-out part shows what was learnt; default: BFCL's calls.")
    ] = None,
    template: Annotated[str, typer.Option(help="tokenizer (its own chat template) or chatml.")] = "tokenizer",
    max_length: Annotated[int, typer.Option(min=2, help="In tokens; longer turns are left out.")] = 1024,
    eval_fraction: Annotated[
        float | None, typer.Option(help="Share that is held out; default: one in five, of many one in a hundred.")
    ] = None,
    eval_limit: Annotated[int, typer.Option(min=1, help="Most held-out texts that are read for the loss.")] = 40,
    questions: Annotated[
        int, typer.Option(min=2, help="Of TruthfulQA and of ARC-Easy each; a fifth as many calls and refusals.")
    ] = 80,
    out: Annotated[Path | None, typer.Option(help="Folder; default: runs/evaluate-<model>.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON, and nothing else.")] = False,
) -> None:
    """Measure what a fine-tuned model learnt and what it broke, against its base, whoever trained it.

    Running the same command again continues where it was interrupted.
    """
    from rich.console import Console

    from tinyengram.cli.progress import Live, prepare_process
    from tinyengram.report.columns import evaluation_columns
    from tinyengram.report.plain import scorecard_table
    from tinyengram.report.scorecard import scorecard
    from tinyengram.study.evaluation import evaluate as run
    from tinyengram.study.plan import checked
    from tinyengram.training.job import DataSpec

    prepare_process()
    folder = out or Path("runs") / f"evaluate-{Path(model).resolve().name}"
    spec = checked(
        DataSpec,
        {
            "name": data or "bfcl",
            "template": template,
            "max_length": max_length,
            "eval_fraction": eval_fraction,
            "eval_limit": eval_limit,
        },
    )
    with interruptible("Interrupted. Run the same command to continue."), Live(Console(stderr=True)) as live:
        found = run(model, base=base, data=spec, questions=questions, out=folder, on_event=live.show)
    if as_json:
        print(found.model_dump_json())
        return
    output = Console(width=None if sys.stdout.isatty() else 130)
    output.print(scorecard_table(scorecard(evaluation_columns(found, folder))))
    output.print(found.finding, highlight=False, markup=False)
    output.print(f"Time: {sum(found.seconds.values()):.0f} s", highlight=False)
    output.print(f"Page: {folder / 'report.html'}", highlight=False, soft_wrap=True)
