"""Tokens per second of the server with 1, 4 and 16 streams, as ratios to ``generate``, one request after the other.

Both take turns in one process; the requests go over loopback.

Run: make bench-serve
"""

from __future__ import annotations

import json
import socket
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import torch
import uvicorn
from peft import get_peft_model
from rich.console import Console
from rich.table import Table

from tinyengram import EngramConfig, hardware
from tinyengram.serving import generate
from tinyengram.serving.batching import Batcher
from tinyengram.serving.server import Routes, hosts_for, make_app
from tinyengram.serving.speakers import Speaker, load_speakers
from tinyengram.sources import load_base
from tinyengram.tasks.conversations import request

BASE = "smollm2-135m-instruct"
STREAMS = (1, 4, 16)
REPEATS = 3
NEW_TOKENS = 32
QUESTION = (
    "Tell me, at length and in your own words, what a river is and where the water of river number {} comes from."
)


def adapter(folder: str) -> str:
    """A memory of random rows, as large as the default, in a folder."""
    torch.manual_seed(0)
    config = EngramConfig(layer_ids=[1, 2, 3, 4], task_type="CAUSAL_LM")
    get_peft_model(load_base(BASE).model, config).save_pretrained(folder)
    file = Path(folder) / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"base_model_name_or_path": BASE}))
    return folder


def plainly(speaker: Speaker, number: int) -> int:
    """Tokens of an answer by ``generate``."""
    prompt = speaker.renderer.prompt(request(QUESTION.format(number)))
    ids = speaker.served.tokenizer(prompt, add_special_tokens=False)["input_ids"]
    ends = speaker.renderer.end_ids
    return generate(speaker.served.model, speaker.served.tokenizer, ids, ends=ends, max_new_tokens=NEW_TOKENS).tokens


def served(client: httpx.Client, number: int) -> int:
    """Tokens of the same answer by the server."""
    messages = [{"role": "user", "content": QUESTION.format(number)}]
    body = {"model": "memory", "messages": messages, "max_tokens": NEW_TOKENS}
    return client.post("/v1/chat/completions", json=body).json()["usage"]["completion_tokens"]


def rate(work: Callable[[], int]) -> float:
    """Tokens per second."""
    begun = time.perf_counter()
    tokens = work()
    return tokens / (time.perf_counter() - begun)


def measured(client: httpx.Client, speaker: Speaker) -> dict[str, list[float]]:
    rates: dict[str, list[float]] = {"generate": [], **{f"{number} streams": [] for number in STREAMS}}
    for round in range(REPEATS + 1):
        now = {"generate": rate(lambda: sum(plainly(speaker, number) for number in range(2)))}
        for streams in STREAMS:
            with ThreadPoolExecutor(streams) as pool:
                now[f"{streams} streams"] = rate(
                    lambda pool=pool, streams=streams: sum(pool.map(lambda one: served(client, one), range(streams)))
                )
        if round:  # The first warms up.
            for name, value in now.items():
                rates[name].append(value)
        print(f"round {round} of {REPEATS}", file=sys.stderr)
    return rates


def main() -> None:
    hardware.keep_freed_memory()
    with tempfile.TemporaryDirectory() as folder:
        speakers: dict[str, Any] = load_speakers([f"memory={adapter(folder)}"])
    speaker = speakers["memory"]
    batcher = Batcher(speaker.served.model)
    listening = socket.create_server(("127.0.0.1", 0))
    app = make_app(Routes(speakers, batcher, most_tokens=NEW_TOKENS), hosts=hosts_for("127.0.0.1"))
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning", access_log=False))
    thread = threading.Thread(target=lambda: server.run(sockets=[listening]))
    thread.start()
    with httpx.Client(base_url=f"http://127.0.0.1:{listening.getsockname()[1]}", timeout=300) as client:
        rates = measured(client, speaker)
    server.should_exit = True
    thread.join()
    batcher.close()
    table = Table(title=f"{BASE} with a memory at blocks 1 to 4, {NEW_TOKENS} tokens an answer")
    for name in ("", "tokens/s, median", "ratio to generate, median (lowest to highest)"):
        table.add_column(name, no_wrap=True)
    for name, values in rates.items():
        ratios = [value / plain for value, plain in zip(values, rates["generate"], strict=True)]
        spread = f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
        table.add_row(name, f"{statistics.median(values):.1f}", spread)
    Console(width=100).print(table)


if __name__ == "__main__":
    main()
