"""``tinyengram play``: adapters and their base side by side, in a browser."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from tinyengram.cli.exits import interruptible
from tinyengram.cli.serve import listening_at
from tinyengram.errors import TinyEngramError


def play(
    adapters: Annotated[
        list[str],
        typer.Argument(metavar="ADAPTER...", help="Folders of adapters (or NAME=FOLDER) of one method on one base."),
    ],
    base: Annotated[str | None, typer.Option(help="The adapters' base, if not the one that they name.")] = None,
    tools: Annotated[Path | None, typer.Option(help="A JSON list of functions to begin with.")] = None,
    template: Annotated[str, typer.Option(help="tokenizer (its own chat template) or chatml.")] = "tokenizer",
    port: Annotated[int, typer.Option(min=1, max=65535, help="On this machine alone.")] = 7860,
) -> None:
    """Ask adapters and their base the same in a browser, with tools, and with adapters switched off.

    Tokens are coloured by how far a memory moved them, as by explain. Only this machine reaches the page.
    """
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # Read when Gradio is imported.
    from tinyengram.cli.progress import prepare_process
    from tinyengram.report.explained import strength_of
    from tinyengram.serving import load_tools
    from tinyengram.serving.playground import Playground, make_page
    from tinyengram.serving.speakers import load_speakers
    from tinyengram.tasks.rendering import known_template

    try:
        import gradio
    except ImportError as error:
        raise TinyEngramError("play needs Gradio: pip install 'tinyengram[play]'.") from error
    with interruptible("Stopped."):
        prepare_process()
        kind = known_template(template)
        if tools is not None:
            load_tools(tools)
        listening_at("127.0.0.1", port).close()  # Refused before anything is loaded.
        playground = Playground(
            load_speakers(adapters, base=base, template=kind), template=kind, strength_of=strength_of
        )
        page = make_page(playground, "" if tools is None else tools.read_text(encoding="utf-8-sig"))
        print(f"Playing at http://127.0.0.1:{port}; Ctrl-C ends.", file=sys.stderr)
        plain = gradio.themes.Base(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"])
        page.launch(server_name="127.0.0.1", server_port=port, share=False, quiet=True, theme=plain)
