"""A server that runs in a thread of the tests' process, at a port of its own."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from tinyengram.serving.batching import Batcher
from tinyengram.serving.speakers import Speaker


@contextmanager
def running(speakers: Mapping[str, Speaker], *, most_tokens: int, **options: int) -> Iterator[tuple[str, Batcher]]:
    """Its address, and what generates for it."""
    import uvicorn

    from tinyengram.serving.server import Routes, hosts_for, make_app

    batcher = Batcher(next(iter(speakers.values())).served.model, **options)
    app = make_app(Routes(speakers, batcher, most_tokens=most_tokens), hosts=hosts_for("127.0.0.1"))
    listening = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=1))
    thread = threading.Thread(target=lambda: server.run(sockets=[listening]))
    thread.start()
    try:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}", batcher
    finally:
        server.should_exit = True
        thread.join()
        batcher.close()
