"""Mutation testing of `memory/`: is every small change to its code noticed by its tests? Run as ``make mutants``.

    make mutants                       every mutant (hours); continues where it was cut off
    make mutants FILES="ngrams.py"     of some files
    make mutants SAMPLE=300 SEED=1     of a random sample, with the score's Wilson interval

For each mutant a process is forked from one that has imported torch and collected the tests, runs the tests that reach
the changed lines, fastest first, and stops at the first that fails. Code that runs while tests are imported is tried in
a fork that imports the package anew, one test file after the other. A mutant that takes ten times as long as its tests
took is counted as killed, by time. What is known is kept in ``.mutants/`` with the digests of what it was found with.
"""

from __future__ import annotations

import argparse
import gc
import hashlib
import importlib.util
import json
import math
import os
import random
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from importlib.machinery import ModuleSpec, SourceFileLoader
from itertools import accumulate
from pathlib import Path
from types import CodeType, FunctionType
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, settings
from mutations import Mutant, mutants_of
from reached import KNOWN, PACKAGE, PYTEST, ROOT, TESTS, coverage, digest, forked

# Seconds of tests, by the clean run, that are tried on one mutant: of the file of its name for half of the time, then
# by turns the fastest of each. A score is thus a lower bound; a line that every test reaches would take all of them for
# a survivor.
AT_MOST = 15.0
SURVIVED, NOT_REACHED, BY_TIME = "survived", "survived: no test reaches it", "killed by time"
CANNOT_PATCH = 75


class Trial:
    """A pytest plugin that runs chosen tests of a collected session, ending the process at the first that fails."""

    def __init__(self, report: Path, during: Callable[[dict[str, pytest.Item]], None]) -> None:
        self.report, self.during = report, during

    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        self.during({item.nodeid: item for item in session.items})
        return True

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.failed:
            self.fail(report.nodeid)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed:
            self.fail(report.nodeid)

    def fail(self, test: str) -> None:
        self.report.write_text(test)
        os._exit(1)


def run_tests(items: list[pytest.Item]) -> None:
    for item, following in zip(items, [*items[1:], None], strict=True):
        item.config.hook.pytest_runtest_protocol(item=item, nextitem=following)


class Mutated(SourceFileLoader):
    """Imports a module of the package from a mutant's source."""

    def __init__(self, name: str, path: str, source: str) -> None:
        super().__init__(name, path)
        self.source = source

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        return importlib.util.spec_from_file_location(name, self.path, loader=self) if name == self.name else None

    def get_code(self, fullname: str) -> CodeType:
        return compile(self.source, self.path, "exec")


def codes(code: CodeType) -> Iterator[CodeType]:
    """Code of a module's functions and of its classes' methods."""
    for inner in code.co_consts:
        if isinstance(inner, CodeType):
            yield inner
            if not inner.co_flags & 1:  # A class's body.
                yield from codes(inner)


def patch(path: Path, source: str) -> None:
    """Give the functions of an imported module the code of a mutant's.

    Raises:
        ValueError: A function has other free variables then.
    """
    old, new = (list(codes(compile(text, str(path), "exec"))) for text in (path.read_text(), source))
    changed = {one.co_qualname: other for one, other in zip(old, new, strict=True) if one != other and one.co_flags & 1}
    for one in gc.get_objects():
        if isinstance(one, FunctionType) and one.__code__.co_filename == str(path):
            other = changed.get(one.__code__.co_qualname)
            if other is not None and one.__code__.co_firstlineno == other.co_firstlineno:
                one.__code__ = other


class Runner:
    """Tries mutants of one file after the other."""

    def __init__(self, covered: dict[str, Any]) -> None:
        self.covered = covered
        self.report = KNOWN / "by.txt"
        self.results_file = KNOWN / "results.json"
        self.results: dict[str, Any] = json.loads(self.results_file.read_text()) if self.results_file.exists() else {}
        self.said = sys.stdout
        self.killers: Counter = Counter()
        self.tests_digest = digest(*TESTS.glob("*.py"), *PACKAGE.glob("*.py"))

    def tests_for(self, name: str, mutant: Mutant) -> tuple[list[tuple[float, str]], bool]:
        """(seconds, test) of those to try on a mutant, and whether importing the tests reaches it too."""
        wanted = range(mutant.start, mutant.end + 1)
        if mutant.function is not None and mutant.start == mutant.function[0]:
            wanted = range(mutant.function[0], mutant.function[1] + 1)
        found, early = [], mutant.function is None or mutant.start == mutant.function[0]
        for one in self.covered.values():
            at_import = mutant.function is not None and not set(wanted).isdisjoint(one["imported"].get(name, ()))
            early |= at_import
            for test, about in one["tests"].items():
                lines = about["lines"].get(name, ())
                if at_import or (lines and mutant.function is None) or not set(wanted).isdisjoint(lines):
                    found.append((about["seconds"], test))
        mirror, turns, of_mirror = f"test_{Path(name).stem}.py", Counter(), 0.0
        by_turns = []
        for seconds, test in sorted(found):
            file = Path(test.split("::")[0]).name
            of_mirror += seconds if file == mirror else 0.0
            first = file == mirror and of_mirror <= AT_MOST / 2
            by_turns.append((-1 if first else turns[file], file != mirror, seconds, test))
            turns[file] += 1
        found = [(seconds, test) for _, _, seconds, test in sorted(by_turns)]
        until = list(accumulate(seconds for seconds, _ in found))
        return [one for one, total in zip(found, until, strict=True) if total <= AT_MOST + one[0]], early

    def known(self, key: str) -> dict[str, Any] | None:
        """What was found before, unless what it was found with has changed."""
        result = self.results.get(key)
        if result is None:
            return None
        if result["by"] and result["result"] == "killed":
            file = ROOT / result["by"].split("::")[0]
            return result if file.exists() and digest(file) == result["with"] else None
        return result if result["with"] == self.tests_digest else None

    def keep(self, key: str, result: str, by: str, began: float) -> None:
        with_ = digest(ROOT / by.split("::")[0]) if by and result == "killed" else self.tests_digest
        self.results[key] = {"result": result, "by": by, "with": with_, "seconds": round(time.monotonic() - began, 1)}
        self.killers[key.split()[0], by] += 1
        partial = self.results_file.with_suffix(".partial")
        partial.write_text(json.dumps(self.results, indent=0))
        partial.replace(self.results_file)

    def ended(self, code: int) -> tuple[str, str] | None:
        """(result, by which test) of a run that ended so; None where it could not be tried in this way."""
        if code == 0:
            return SURVIVED, ""
        if code == CANNOT_PATCH:
            return None
        if code in (-signal.SIGXCPU, -signal.SIGKILL, -signal.SIGALRM):
            return BY_TIME, ""
        return "killed", self.report.read_text() if code == 1 and self.report.exists() else ""

    def try_collected(self, items: dict[str, pytest.Item], path: Path, mutant: Mutant, tests: list) -> Any:
        def work() -> None:
            try:
                patch(path, mutant.source)
            except ValueError:
                os._exit(CANNOT_PATCH)
            # Which tests are tried is settled; those that killed others of this file are likely to kill this one.
            order = sorted(tests, key=lambda one: (-self.killers[path.name, one[1]], *one))
            run_tests([items[test] for _, test in order])

        self.report.unlink(missing_ok=True)
        return self.ended(forked(work, 10 * sum(seconds for seconds, _ in tests) + 10))

    def try_anew(self, path: Path, mutant: Mutant, tests: list) -> Any:
        """Import the package and one test file after the other with the mutant in it, the file of its name first."""
        name = f"tinyengram.memory.{path.stem}"
        of_file: dict[str, list] = {}
        for seconds, test in tests:
            of_file.setdefault(test.split("::")[0], []).append((seconds, test))

        def order(file: str) -> tuple[bool, float]:
            return Path(file).name != f"test_{path.stem}.py", sum(seconds for seconds, _ in of_file[file])

        for file in sorted(of_file, key=order):
            wanted = [test for _, test in of_file[file]]

            def work(file: str = file, wanted: list[str] = wanted) -> None:
                sys.meta_path.insert(0, Mutated(name, str(path), mutant.source))
                trial = Trial(self.report, lambda items: run_tests([items[test] for test in wanted]))
                if pytest.main([*PYTEST, str(ROOT / file)], plugins=[trial]) not in (0, 5):
                    os._exit(2)

            self.report.unlink(missing_ok=True)
            ended = self.ended(forked(work, 10 * order(file)[1] + 30))
            if ended != (SURVIVED, ""):
                return ended
        return SURVIVED, ""

    def run(self, chosen: list[tuple[Path, int, Mutant]]) -> None:
        """Try those of which nothing is known: code of functions in forks of one session, the rest anew."""
        began_all, done = time.monotonic(), 0
        left = [(path, at, one) for path, at, one in chosen if self.known(key_of(path, one)) is None]

        def tried(path: Path, mutant: Mutant, ended: Any, began: float) -> None:
            nonlocal done
            done += 1
            result, by = ended
            self.keep(key_of(path, mutant), result, by, began)
            seconds = time.monotonic() - began_all
            where = f"{done}/{len(left)} {seconds:.0f} s {path.name}:{mutant.start}"
            print(where, result, by, file=self.said, flush=True)

        def collected(items: dict[str, pytest.Item]) -> None:
            for path, _, mutant in left:
                tests, early = self.tests_for(path.name, mutant)
                began = time.monotonic()
                if not tests:
                    tried(path, mutant, (NOT_REACHED, ""), began)
                elif not early and (ended := self.try_collected(items, path, mutant, tests)):
                    tried(path, mutant, ended, began)

        if left:
            session = os.fork()
            if not session:
                # A process of its own, so that this one has imported nothing of the package when it tries the rest.
                self.said = os.fdopen(os.dup(1), "w", buffering=1)
                os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
                code = pytest.main([*PYTEST, str(TESTS)], plugins=[Trial(self.report, collected)])
                os._exit(0 if code in (0, 5) else 1)
            if os.waitstatus_to_exitcode(os.waitpid(session, 0)[1]):
                sys.exit("The tests could not be collected.")
            self.results = json.loads(self.results_file.read_text()) if self.results_file.exists() else {}
        for path, _, mutant in left:
            if self.known(key_of(path, mutant)) is None:
                began = time.monotonic()
                tried(path, mutant, self.try_anew(path, mutant, self.tests_for(path.name, mutant)[0]), began)


def key_of(path: Path, mutant: Mutant) -> str:
    return f"{path.name} {hashlib.sha256(mutant.source.encode()).hexdigest()[:24]}"


def wilson(killed: int, tried: int, z: float = 1.96) -> tuple[float, float]:
    """95% interval of a share (Wilson, 1927)."""
    share, extra = killed / tried, z * z / tried
    half = z * math.sqrt(share * (1 - share) / tried + extra / tried / 4)
    return (share + extra / 2 - half) / (1 + extra), (share + extra / 2 + half) / (1 + extra)


def table(runner: Runner, chosen: list[tuple[Path, int, Mutant]], sampled: bool) -> str:
    counts: dict[str, Counter] = {}
    survivors = []
    for path, _, mutant in chosen:
        result = runner.results[key_of(path, mutant)]["result"]
        counts.setdefault(path.name, Counter())[result] += 1
        if result.startswith("survived"):
            note = " (no test reaches it)" if result == NOT_REACHED else ""
            survivors.append(f"{path.name}:{mutant.start}{note}\n  - {mutant.before}\n  + {mutant.after}")
    lines = ["", "| file | mutants | killed | of these by time | survived | score |", "|---|---|---|---|---|---|"]
    for name, count in [*counts.items(), ("all", sum(counts.values(), Counter()))]:
        total, survived = sum(count.values()), count[SURVIVED] + count[NOT_REACHED]
        score = f"{(total - survived) / total:.1%}"
        if name == "all" and sampled:
            score += " ({:.1%} … {:.1%})".format(*wilson(total - survived, total))
        lines.append(f"| {name} | {total} | {total - survived} | {count[BY_TIME]} | {survived} | {score} |")
    return "\n".join([*survivors, *lines])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="*", help="names of files in memory/; all where none is given")
    parser.add_argument("--sample", type=int, help="try so many, drawn at random")
    parser.add_argument("--seed", type=int, default=0, help="of the draw")
    given = parser.parse_args()
    KNOWN.mkdir(exist_ok=True)
    os.chdir(ROOT)
    sys.path[:0] = [str(ROOT), str(ROOT / "src")]
    paths = sorted(path for path in PACKAGE.glob("*.py") if path.name != "__init__.py")
    if unknown := set(given.files) - {path.name for path in paths}:
        sys.exit(f"No such files in memory/: {sorted(unknown)}; there are {[path.name for path in paths]}.")
    everything = [
        (path, at, mutant)
        for path in paths
        if not given.files or path.name in given.files
        for at, mutant in enumerate(mutants_of(path.read_text()))
    ]
    chosen = everything
    if given.sample is not None:
        # The first of one shuffled list, so that a larger sample holds the smaller one.
        shuffled = list(everything)
        random.Random(given.seed).shuffle(shuffled)
        chosen = sorted(shuffled[: given.sample], key=lambda one: (one[0], one[1]))
    options = {"database": None, "derandomize": True, "deadline": None, "suppress_health_check": list(HealthCheck)}
    settings.register_profile("mutants", phases=(Phase.explicit, Phase.generate), **options)
    settings.load_profile("mutants")
    covered = coverage()
    for name in sorted({name for one in covered.values() for name in one["modules"]}):
        try:
            importlib.import_module(name)
        except Exception:
            continue
    runner = Runner(covered)
    runner.run(chosen)
    print(table(runner, chosen, sampled=len(chosen) < len(everything)))


if __name__ == "__main__":
    main()
