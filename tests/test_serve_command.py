"""``tinyengram serve``: what is refused before anything is loaded, and a server that starts, answers and ends."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys

import pytest

from tests.serving.models import BASE
from tinyengram.cli import main

httpx = pytest.importorskip("httpx")
pytest.importorskip("uvicorn")


def refused(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *arguments: str) -> str:
    monkeypatch.setattr(sys, "argv", ["tinyengram", "serve", *arguments])
    with pytest.raises(SystemExit) as stopped:
        main()
    assert stopped.value.code == 2
    return capsys.readouterr().err


def test_a_port_that_is_taken_is_said_before_anything_is_loaded(capsys, monkeypatch) -> None:
    monkeypatch.setattr("tinyengram.serving.speakers.load_speakers", None)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        said = refused(capsys, monkeypatch, BASE, "--port", str(port))
    assert said == (
        f"tinyengram: Nothing can listen at 127.0.0.1, port {port}: address already in use. Name another by --port (0 "
        "takes any that is free), or --host.\n"
    )


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        ([BASE, "--host", "192.0.2.1"], ["192.0.2.1", "cannot assign", "--host"]),
        ([BASE, "--template", "chat-ml"], ["Did you mean 'chatml'?"]),
        (["no-such-model"], ["no-such-model", "(1)"]),
        ([BASE, BASE], ["Two adapters are called", "NAME=FOLDER"]),
        ([BASE, "other"], [BASE, "no folder with adapter_config.json", "Name it alone"]),
        (["=x"], ["'=x' names no adapter", "NAME=FOLDER"]),
    ],
)
def test_what_cannot_be_served(capsys, monkeypatch, arguments: list[str], parts: list[str]) -> None:
    said = refused(capsys, monkeypatch, *arguments, "--port", "0")
    for part in parts:
        assert part in said


def test_without_its_packages_it_says_which(capsys, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    assert "pip install 'tinyengram[serve]'" in refused(capsys, monkeypatch, BASE)


@pytest.mark.slow
@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0"])
def test_it_answers_until_it_is_interrupted(host: str) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "tinyengram", "serve", BASE, "--port", "0", "--host", host],
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
        # Tests that run in a shell's background inherit that Ctrl-C is ignored.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    try:
        assert process.stderr is not None
        said = []
        while not said or not said[-1].startswith("Serving at"):
            said.append(process.stderr.readline())
            assert said[-1], "".join(said)
        assert any("no password" in line for line in said) == (host == "0.0.0.0")
        port = said[-1].split(":")[2].partition("/")[0]
        body = {"model": BASE, "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 3}
        answer = httpx.post(f"http://127.0.0.1:{port}/v1/chat/completions", json=body, timeout=60)
        assert json.loads(answer.text)["usage"]["completion_tokens"] == 3
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 130
        assert process.stderr.read() == "\nStopped.\n"
    finally:
        process.kill()
