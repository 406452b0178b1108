"""What the tests of `memory/` reach, test by test: lines of its files and seconds, from one clean run each."""

from __future__ import annotations

import hashlib
import json
import math
import os
import resource
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "src" / "tinyengram" / "memory"
TESTS = ROOT / "tests" / "memory"
KNOWN = ROOT / ".mutants"
# They start processes or compilers, or measure time: longer than all others together, or of another outcome by chance.
LEFT_OUT = "not two_processes and not fsdp and not compile and not two_thousand and not two_million"
PYTEST = ["-q", "-m", "not slow", "-k", LEFT_OUT, "-p", "no:cacheprovider", "-p", "no:warnings", "-s"]


def digest(*paths: Path) -> str:
    return hashlib.sha256(b"\0".join(path.read_bytes() for path in sorted(paths))).hexdigest()[:16]


def forked(work: Callable[[], None], seconds: float | None = None) -> int:
    """Do work in a forked process and return how it ended: its exit code, or minus the signal that killed it."""
    child = os.fork()
    if not child:
        code = 70
        try:
            os.setsid()
            quiet = os.open(os.devnull, os.O_WRONLY)
            os.dup2(quiet, 1)
            if not os.environ.get("MUTANTS_DEBUG"):
                os.dup2(quiet, 2)
            if seconds is not None:
                resource.setrlimit(resource.RLIMIT_CPU, (math.ceil(seconds), math.ceil(seconds) + 5))
                signal.signal(signal.SIGALRM, signal.SIG_DFL)
                signal.setitimer(signal.ITIMER_REAL, 20 * seconds)
            work()
            code = 0
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


class Coverage:
    """A pytest plugin: which lines of the package each test reaches, and how long it takes."""

    def __init__(self) -> None:
        self.lines: dict[str, set[int]] = {}
        self.tests: dict[str, Any] = {}
        self.failed: list[str] = []

    def trace(self, frame: FrameType, event: str, argument: Any) -> Any:
        path = frame.f_code.co_filename
        if not path.startswith(str(PACKAGE)):
            return None
        lines = self.lines.setdefault(path[len(str(PACKAGE)) + 1 :], set())

        def note(frame: FrameType, event: str, argument: Any) -> Any:
            lines.add(frame.f_lineno)
            return note

        return note

    def taken(self) -> dict[str, list[int]]:
        found, self.lines = {name: sorted(lines) for name, lines in self.lines.items()}, {}
        return found

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Iterator[None]:
        self.lines, begun = {}, time.process_time()
        done = yield
        self.tests[item.nodeid] = {"seconds": time.process_time() - begun, "lines": self.taken()}
        return done

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed:
            self.failed.append(report.nodeid)

    def run(self, file: Path, target: Path, key: str) -> None:
        """Run one test file; write what its tests reach, what importing it reaches, and the modules that were used."""
        sys.settrace(self.trace)
        threading.settrace(self.trace)
        imported: dict[str, list[int]] = {}

        class AtImport:
            def pytest_collection_finish(plugin) -> None:
                imported.update(self.taken())

        pytest.main([*PYTEST, str(file)], plugins=[self, AtImport()])
        sys.settrace(None)
        modules = [name for name in sys.modules if name.split(".")[0] not in ("tinyengram", "tests", "__main__")]
        target.write_text(
            json.dumps(
                {"key": key, "tests": self.tests, "imported": imported, "failed": self.failed, "modules": modules}
            )
        )


def coverage() -> dict[str, Any]:
    """By test file, from one clean run each; kept while neither the package nor the test changes."""
    found = {}
    shared = [*PACKAGE.glob("*.py"), *TESTS.glob("[!t]*.py"), TESTS / "tiny.py"]
    for file in sorted(TESTS.glob("test_*.py")):
        target, key = KNOWN / f"{file.stem}.json", digest(*shared, file) + LEFT_OUT
        if not target.exists() or json.loads(target.read_text())["key"] != key:
            print(f"What {file.name} reaches …", flush=True)
            forked(lambda file=file, target=target, key=key: Coverage().run(file, target, key))
        found[file.name] = json.loads(target.read_text())
        if found[file.name]["failed"]:
            sys.exit(f"These fail without any mutant: {found[file.name]['failed']}")
    return found
