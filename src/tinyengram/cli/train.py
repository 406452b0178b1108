"""``tinyengram train``: teach a model one's own chats, and see what it broke."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from tinyengram.cli.exits import interruptible


def train(
    file: Annotated[str, typer.Argument(help="A json, jsonl or parquet file, a folder of them, a Hub id, or bfcl.")],
    base: Annotated[str, typer.Option(help="The model: an embedded name, a folder or a Hub id.")],
    out: Annotated[Path, typer.Option(help="Receives the adapter, its card and run/ with all that was measured.")],
    method: Annotated[
        str, typer.Option(help="engram, engram-exact, lora, another PEFT method, or a YAML file of one.")
    ] = "engram",
    format: Annotated[str, typer.Option(help="How the rows are written; auto finds it out.")] = "auto",
    learn: Annotated[str, typer.Option(help="Which assistant turns: all, calls or last.")] = "all",
    template: Annotated[str, typer.Option(help="tokenizer (its own chat template) or chatml.")] = "tokenizer",
    max_length: Annotated[int, typer.Option(min=2, help="In tokens; longer turns are left out.")] = 2048,
    max_bad_rows: Annotated[int, typer.Option(min=0, help="Malformed rows that are put up with.")] = 0,
    eval_fraction: Annotated[
        float | None, typer.Option(help="Share that is held out; default: one in five, of many one in a hundred.")
    ] = None,
    max_steps: Annotated[int | None, typer.Option(min=1, help="Default: three epochs, 24 to 300 steps.")] = None,
    epochs: Annotated[float | None, typer.Option(help="In place of --max-steps.")] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Texts a step.")] = 4,
    learning_rate: Annotated[float | None, typer.Option(help="Default: the method's.")] = None,
    hold_weight: Annotated[
        float, typer.Option(min=0, help="Above 0: also learn not to call where no tool fits (any method).")
    ] = 0.0,
    open_after: Annotated[
        str | None,
        typer.Option(help="The memory is shut until a chat holds this text; 'tools': where tools are offered."),
    ] = None,
    questions: Annotated[
        int, typer.Option(min=2, help="Of TruthfulQA and of ARC-Easy each; a fifth as many calls and refusals.")
    ] = 80,
    seed: Annotated[int, typer.Option(help="Of first values and order.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print the results as JSON, and nothing else.")] = False,
) -> None:
    """Fine-tune a model on chats, and print what it learnt and what it forgot.

    Running the same command again continues where it was interrupted.
    """
    from rich.console import Console

    from tinyengram.cli.progress import Live, prepare_process
    from tinyengram.report.columns import study_columns
    from tinyengram.report.plain import scorecard_table
    from tinyengram.report.scorecard import scorecard
    from tinyengram.study.plan import checked
    from tinyengram.study.run import help_training
    from tinyengram.study.tuning import RUN, study_of_one
    from tinyengram.study.tuning import train as run
    from tinyengram.training.job import BaseSpec, DataSpec

    prepare_process()
    from tinyengram.processes import leave_process_group, rank

    spec = checked(
        DataSpec,
        {
            "name": file,
            "format": format,
            "learn": learn,
            "template": template,
            "max_length": max_length,
            "max_bad_rows": max_bad_rows,
            "eval_fraction": eval_fraction,
        },
    )
    said = {"max_steps": max_steps, "epochs": epochs, "learning_rate": learning_rate}
    settings = {name: value for name, value in said.items() if value is not None}
    settings |= {"batch_size": batch_size, "hold_weight": hold_weight}
    how: dict[str, Any] = {
        "base": BaseSpec(name=base),
        "method": method,
        "open_after": open_after,
        "settings": settings,
        "questions": questions,
        "seed": seed,
    }
    if rank():
        help_training(study_of_one(spec, **how), out / RUN)
        leave_process_group()
        return
    with interruptible("Interrupted. Run the same command to continue."), Live(Console(stderr=True)) as live:
        tuned = run(spec, out=out, on_event=live.show, **how)
    leave_process_group()
    if as_json:
        print(tuned.results.model_dump_json())
        return
    output = Console(width=None if sys.stdout.isatty() else 130)
    output.print(scorecard_table(scorecard(study_columns(tuned.results, out / "run"))))
    output.print(tuned.finding, highlight=False, markup=False)
    output.print(f"Time: {sum(tuned.results.seconds.values()):.0f} s", highlight=False)
    output.print(f"Adapter and card: {out}", highlight=False, soft_wrap=True)
    output.print(f"Page: {out / 'run' / 'report.html'}", highlight=False, soft_wrap=True)
