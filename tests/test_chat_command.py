"""``tinyengram chat``: answers on standard output, all else beside them; in a terminal Ctrl-C stops an answer."""

from __future__ import annotations

import io
import json
import os
import pty
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.serving.models import BASE, WEATHER, adapted, scripted
from tinyengram.cli import main
from tinyengram.cli.chat import _Session
from tinyengram.serving import Served, Talk

OSLO = 'I look. <tool_call>{"name": "weather", "arguments": {"city": "Oslo"}}</tool_call>'


class Ran:
    """What a run of the command said."""

    def __init__(self, code: int, out: str, err: str) -> None:
        self.code, self.out, self.err = code, out, err


@pytest.fixture
def chat(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    """Runs the command with lines piped in, on a model at hand where one is given."""

    def run(lines: str, *arguments: object, served: Served | None = None) -> Ran:
        if served is not None:
            monkeypatch.setattr("tinyengram.serving.load_served", lambda name, base=None: served)
        name = [] if served is None else ["model"]
        monkeypatch.setattr(sys, "argv", ["tinyengram", "chat", *name, *map(str, arguments)])
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(lines.encode("utf-8", "surrogateescape"))))
        with pytest.raises(SystemExit) as stopped:
            main()
        return Ran(int(stopped.value.code or 0), *capsys.readouterr())

    return run


@pytest.fixture
def tools(tmp_path: Path) -> Path:
    file = tmp_path / "tools.json"
    file.write_text(json.dumps([WEATHER]))
    return file


class TestPiped:
    def test_an_answer_a_message_and_nothing_else_on_standard_output(self, chat) -> None:
        ran = chat("Hi\n\nBye\n", served=scripted("Hello.", "See you.\nSoon."))
        assert (ran.code, ran.out) == (0, "Hello.\nSee you.\nSoon.\n")
        assert "Rendering: " in ran.err

    def test_json_is_one_line_an_answer_with_its_calls(self, chat, tools: Path) -> None:
        wrong = OSLO.replace("city", "town")
        ran = chat(
            "Rain?\n/result dry\nRain?\n", "--tools", tools, "--json", served=scripted(OSLO, "No.\nNone.", wrong)
        )
        assert ran.code == 0
        call = {"name": "weather", "arguments": {"city": "Oslo"}, "misfit": None}
        assert [json.loads(line) for line in ran.out.splitlines()] == [
            {"role": "assistant", "content": "I look.", "calls": [call]},
            {"role": "assistant", "content": "No.\nNone.", "calls": []},
            {
                "role": "assistant",
                "content": "I look.",
                "calls": [{"name": "weather", "arguments": {"town": "Oslo"}, "misfit": "city is missing"}],
            },
        ]
        assert 'call: weather {"city": "Oslo"}' in ran.err
        assert "the tool's arguments do not fit its schema: city is missing" in ran.err

    def test_commands(self, chat, tools: Path) -> None:
        lines = "/tools\n/system Be brief.\nHi\n/again\n/system\n/reset\n /quit is no command\n/quit\nnever said\n"
        served = scripted("One.", "Two.", "Three.")
        ran = chat(lines, "--tools", tools, served=served)
        assert (ran.code, ran.out) == (0, "One.\nTwo.\nThree.\n")
        assert 'weather: The weather. {"type": "object"' in ran.err
        assert ran.err.count("System text: Be brief.") == 2
        assert "user\n/quit is no command" in served.model.prompts[2]
        assert "One." not in served.model.prompts[2]

    def test_the_base_is_told_apart(self, chat) -> None:
        served = adapted("lora", target_modules="all-linear")
        said = chat("Hi\n/base\n", "--json", "--max-new-tokens", 5, served=served).out.splitlines()
        assert [json.loads(line)["role"] for line in said] == ["assistant", "base"]
        assert json.loads(said[0])["content"] != json.loads(said[1])["content"]

    def test_what_is_refused_is_said_and_the_rest_answered(self, chat) -> None:
        ran = chat(f"{'word ' * 10_000}\n/bse\n/result\n/result dry\nHi\n", served=scripted("Hello."))
        assert (ran.code, ran.out) == (2, "Hello.\n")
        refusals = [line for line in ran.err.splitlines() if line.startswith("tinyengram: ")]
        assert len(refusals) == 4
        for refusal, parts in zip(
            refusals,
            [
                (r"5\d{4} tokens", "at most 2048", "shorten it"),
                ("'/bse'", "Did you mean '/base'"),
                ("/result TEXT",),
                ("no call",),
            ],
            strict=True,
        ):
            for part in parts:
                assert re.search(part, refusal)

    def test_a_cut_answer_is_said_to_be(self, chat) -> None:
        ran = chat("Hi\n", "--max-new-tokens", 3, served=scripted("Hello."))
        assert ran.out == "Hel\n"
        assert "Cut off after 3 tokens" in ran.err

    def test_a_broken_call_is_said_to_be(self, chat, tools: Path) -> None:
        ran = chat("Hi\n", "--tools", tools, served=scripted('<tool_call>{"name": "weather", '))
        assert "meant as a call, but cannot be read" in ran.err

    def test_what_is_no_utf_8_ends_in_a_line(self, chat) -> None:
        ran = chat("Hi \udcff\n", served=scripted("Hello."))
        assert ran.code == 2
        assert "Standard input is not UTF-8" in ran.err

    def test_closed_standard_input_is_no_message(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(sys, "stdin", None)
        session = _Session(Talk(scripted()), as_json=False)
        assert (session.is_live, list(session.lines())) == (False, [])


class TestBadInput:
    @pytest.mark.parametrize(
        ("arguments", "parts"),
        [
            ([BASE, "--template", "chat-ml"], ["'chat-ml'", "Did you mean 'chatml'?"]),
            ([BASE, "--tools", "{empty}"], ["tools file {empty} is empty", "leave the tools out"]),
            ([BASE, "--tools", "nowhere.json"], ["nowhere.json", "No such file"]),
            ([BASE, "--base", BASE], ["--base", "is no folder with adapter_config.json"]),
            (["no-such-model"], ["no-such-model", "(1)", "(3)"]),
            (["{folder}"], ["neither adapter_config.json nor config.json"]),
        ],
    )
    def test_it_ends_in_a_line_with_value_and_remedy(self, chat, tmp_path: Path, arguments, parts) -> None:
        (tmp_path / "empty.json").write_text("")
        names = {"empty": tmp_path / "empty.json", "folder": tmp_path}
        ran = chat("", *(argument.format(**names) for argument in arguments))
        assert ran.code == 2
        assert ran.out == ""
        for part in parts:
            assert part.format(**names) in ran.err


class TestTerminal:
    """The command in a terminal of its own."""

    def start(self) -> tuple[subprocess.Popen[bytes], int]:
        ours, theirs = pty.openpty()
        process = subprocess.Popen(
            [sys.executable, "-m", "tinyengram", "chat", BASE, "--max-new-tokens", "1900"],
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            env={**os.environ, "HF_HUB_OFFLINE": "1", "TERM": "dumb"},
            start_new_session=True,
            # Tests that run in a shell's background inherit that Ctrl-C is ignored.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )
        os.close(theirs)
        return process, ours

    def until(self, terminal: int, awaited: str, seen: str = "") -> str:
        begun = time.monotonic()
        while awaited not in seen:
            assert time.monotonic() - begun < 60, seen
            seen += os.read(terminal, 1024).decode(errors="replace")
        return seen.partition(awaited)[2]

    @pytest.mark.slow
    def test_ctrl_c_stops_an_answer_and_ctrl_d_ends(self) -> None:
        process, terminal = self.start()
        try:
            rest = self.until(terminal, "> ")
            os.write(terminal, b"Hello\n")
            rest = self.until(terminal, "Hello\r\n", rest)
            while len(rest) < 20:
                rest += os.read(terminal, 1024).decode(errors="replace")
            process.send_signal(signal.SIGINT)
            rest = self.until(terminal, "Stopped.", rest)
            self.until(terminal, "> ", rest)
            os.write(terminal, b"\x04")
            assert process.wait(20) == 0
        finally:
            process.kill()
            os.close(terminal)

    @pytest.mark.slow
    def test_ctrl_c_at_the_prompt_ends_as_interrupted(self) -> None:
        process, terminal = self.start()
        try:
            self.until(terminal, "> ")
            process.send_signal(signal.SIGINT)
            assert process.wait(20) == 130
        finally:
            process.kill()
            os.close(terminal)
