"""How the command line ends where the fault is not its user's."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

from tinyengram.cli import main


class TestFaults:
    """An error that is not the user's: one line, and the trace in a file; nothing is hidden."""

    @pytest.fixture(autouse=True)
    def broken(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def fail(name: str) -> None:
            raise RuntimeError("the first line\nand more")

        monkeypatch.setattr("tinyengram.study.plan.load_study", fail)

    def run(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
        monkeypatch.setattr(sys, "argv", ["tinyengram", *arguments])
        with pytest.raises(SystemExit) as stopped:
            main()
        assert stopped.value.code == 1
        return capsys.readouterr().err

    def test_it_ends_in_one_line_that_names_the_trace(self, monkeypatch, capsys) -> None:
        said = self.run(monkeypatch, capsys, "compare", "smoke")
        assert said.count("\n") == 1
        assert "RuntimeError: the first line." in said
        trace = Path(re.search(r"trace is in (\S+) ", said)[1])
        assert "and more" in trace.read_text()
        assert "in fail" in trace.read_text()
        trace.unlink()

    def test_debug_shows_it_wherever_it_stands(self, monkeypatch, capsys) -> None:
        for arguments in (("--debug", "compare", "smoke"), ("compare", "smoke", "--debug")):
            assert "Traceback (most recent call last)" in self.run(monkeypatch, capsys, *arguments)
