"""``tinyengram serve``: adapters and their base for OpenAI's clients."""

from __future__ import annotations

import socket
import sys
from typing import Annotated

import typer

from tinyengram.cli.exits import interruptible
from tinyengram.errors import TinyEngramError

_END_SECONDS = 5  # for answers under way, once the server is to end


def serve(
    adapters: Annotated[
        list[str],
        typer.Argument(
            metavar="ADAPTER...",
            help="Folders of adapters (or NAME=FOLDER) of one method on one base; or one model without any.",
        ),
    ],
    base: Annotated[str | None, typer.Option(help="The adapters' base, if not the one that they name.")] = None,
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes any that is free.")] = 8000,
    host: Annotated[str, typer.Option(help="Address to listen at; others than this machine reach 0.0.0.0.")] = (
        "127.0.0.1"
    ),
    template: Annotated[str, typer.Option(help="tokenizer (its own chat template) or chatml.")] = "tokenizer",
    max_new_tokens: Annotated[int, typer.Option(min=1, help="No answer may be longer.")] = 1024,
    streams: Annotated[int, typer.Option(min=1, help="Answers generated at a time; further requests wait.")] = 16,
    waiting: Annotated[int, typer.Option(min=1, help="Requests that may wait; further ones are sent away (503).")] = 64,
) -> None:
    """Answer OpenAI's chat completions with adapters (any PEFT method) and their base, many at a time.

    Requests name an adapter by its folder's name, or the base by its own.
    """
    from tinyengram.cli.progress import prepare_process
    from tinyengram.tasks.rendering import known_template

    with interruptible("Stopped."):
        prepare_process()
        kind = known_template(template)
        try:
            import uvicorn

            from tinyengram.serving.server import Routes, hosts_for, is_loopback, make_app
        except ImportError as error:
            raise TinyEngramError("serve needs FastAPI and uvicorn: pip install 'tinyengram[serve]'.") from error
        from tinyengram.serving.batching import Batcher
        from tinyengram.serving.speakers import load_speakers

        with listening_at(host, port) as listening:
            speakers = load_speakers(adapters, base=base, template=kind)
            model = next(iter(speakers.values())).served.model
            batcher = Batcher(model, most_streams=streams, most_waiting=waiting)
            app = make_app(Routes(speakers, batcher, most_tokens=max_new_tokens), hosts=hosts_for(host))
            config = uvicorn.Config(
                app,
                log_level="warning",
                access_log=False,
                server_header=False,
                timeout_graceful_shutdown=_END_SECONDS,
            )
            shown = f"[{host}]" if ":" in host else host
            print(f"Models: {', '.join(speakers)}", file=sys.stderr)
            if not is_loopback(host):
                print(
                    f"Warning: everybody who reaches {shown} can use these models; there is no password.",
                    file=sys.stderr,
                )
            print(f"Serving at http://{shown}:{listening.getsockname()[1]}/v1; Ctrl-C ends.", file=sys.stderr)
            try:
                uvicorn.Server(config).run(sockets=[listening])
            finally:
                batcher.close()


def listening_at(host: str, port: int) -> socket.socket:
    """A socket that listens; taken before anything is loaded.

    Raises:
        TinyEngramError: The port is taken, or the address is not this machine's.
    """
    try:
        return socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except OSError as error:
        reason = (error.strerror or str(error)).partition(" (")[0].lower()
        raise TinyEngramError(
            f"Nothing can listen at {host}, port {port}: {reason}. Name another by --port (0 takes any that is free), "
            "or --host."
        ) from error
