"""PEFT's own common tests with LoRA, with Engram, and with Shadow, PEFT's own method of whole blocks; a table of each.

Run as ``make peft-suite``. The tests come from the source distribution of the PEFT that is installed; nothing of it is
kept but its ``tests`` folder, in ``.peft-suite``, nor is a line of it changed. What they fetch from the hub stands in a
local cache (``peft_suite_hub``), and ``peft_suite_plugin`` puts one method at a time where LoRA is in their lists.

What passes with LoRA must pass with Engram or be refused by name: an error that Engram's own code raised. The command
fails if anything else happens.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import time
from collections import Counter, defaultdict
from importlib.metadata import version
from pathlib import Path

from peft_suite_hub import lay_out
from peft_suite_plugin import METHODS

ROOT = Path(__file__).resolve().parent.parent
CACHE = ROOT / ".peft-suite"
# The release whose tests are run -> sha256 of its source distribution.
SOURCES = {"0.21.2": "b803ccfb3f3f316004d850284306687833a2235ea278fb56abc856203456142e"}
FILES = (
    "test_config.py",
    "test_decoder_models.py",
    "test_custom_models.py",
    "test_seq_classifier.py",
    "test_token_classification_qa.py",
    "test_feature_extraction_models.py",
    "test_encoder_decoder_models.py",
)
# Tests of what only an adapter on a single linear layer has; Shadow, PEFT's own adapter of blocks, fails them as well.
NOT_OF_BLOCKS = {"test_in_features_out_features_exposed": "a block has no in_features and out_features"}
Outcomes = dict[str, list[str]]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("-k", dest="wanted", default="", help="as pytest's")
    arguments = parser.parse_args()
    tests = fetch_tests()
    hub = CACHE / "hub"
    lay_out(hub)
    results = {method: run(method, tests, hub, arguments.wanted) for method in arguments.methods}
    print("\n" + report(results))
    return int(bool(left_over(results)))


def fetch_tests() -> Path:
    """The folder that holds the ``tests`` of the installed PEFT: fetched once, verified and unpacked each time."""
    release = version("peft")
    if release not in SOURCES:
        sys.exit(
            f"peft {release} is installed, but only the tests of {', '.join(SOURCES)} are pinned: add its source "
            "distribution's sha256 to SOURCES after reading what changed in its tests."
        )
    name = f"peft-{release}"
    folder = CACHE / name
    CACHE.mkdir(exist_ok=True)
    archive = CACHE / f"{name}.tar.gz"
    if not archive.exists():
        fetch = ["download", "--quiet", "--no-deps", "--no-binary", "peft", "--dest", str(CACHE), f"peft=={release}"]
        subprocess.run([sys.executable, "-m", "pip", *fetch], check=True)
    found = hashlib.sha256(archive.read_bytes()).hexdigest()
    if found != SOURCES[release]:
        sys.exit(f"{archive} has sha256 {found}, not {SOURCES[release]}: delete it and run again.")
    shutil.rmtree(folder, ignore_errors=True)
    with tarfile.open(archive) as held:
        tests = [member for member in held.getmembers() if member.name.startswith(f"{name}/tests/")]
        held.extractall(CACHE, members=tests, filter="data")
    (folder / "tests" / "__init__.py").touch()  # They import each other as a package; the distribution lacks this file.
    return folder


def run(method: str, tests: Path, hub: Path, wanted: str) -> Outcomes:
    """What became of each test with one method; pytest's own output goes to a log beside."""
    outcomes, log = CACHE / f"{method}.json", CACHE / f"{method}.log"
    outcomes.unlink(missing_ok=True)
    options = ["-p", "peft_suite_plugin", "-p", "no:cacheprovider", "-q", "--tb=short", "-rN", "--rootdir", str(tests)]
    files = [f"tests/{file}" for file in FILES]
    command = [sys.executable, "-m", "pytest", *options, "--method", method, "--outcomes", str(outcomes), *files]
    if wanted:
        command += ["-k", wanted]
    begun = time.monotonic()
    paths = [str(Path(__file__).parent), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(paths),
        "HF_HUB_CACHE": str(hub),
        "HF_HUB_OFFLINE": "1",
        "CUDA_VISIBLE_DEVICES": "",
    }
    with log.open("w") as output:
        done = subprocess.run(command, cwd=tests, env=environment, stdout=output, stderr=subprocess.STDOUT)
    if done.returncode not in (0, 1) or not outcomes.exists():  # 0 and 1: every test was run.
        sys.exit(f"pytest did not run with {method}: see {log.relative_to(ROOT)}")
    print(f"{method}: {time.monotonic() - begun:.0f} s, {log.relative_to(ROOT)}", flush=True)
    return json.loads(outcomes.read_text())


def left_over(results: dict[str, Outcomes], method: str = "engram") -> dict[str, str]:
    """Tests that pass with LoRA and fail with a method without being refused, with the reason."""
    if "lora" not in results or method not in results:
        return {}
    passes = [test for test, (outcome, _) in results["lora"].items() if outcome == "passed"]
    given = {test: results[method].get(test, ["failed", "was not run"]) for test in passes}
    return {
        test: reason
        for test, (outcome, reason) in given.items()
        if outcome == "failed" and name_of(test) not in NOT_OF_BLOCKS
    }


def report(results: dict[str, Outcomes]) -> str:
    """Markdown: counts by file and method, then why tests that pass with LoRA do not pass with the others."""
    kinds = ("passed", "refused", "failed", "skipped")
    installed = ", ".join(f"{name} {version(name)}" for name in ("peft", "transformers", "torch"))
    lines = [installed, "", "| tests | method | " + " | ".join(kinds) + " |", "| --- " * (2 + len(kinds)) + "|"]
    for file in (*FILES, ""):
        for method, outcomes in results.items():
            count = Counter(outcome for test, (outcome, _) in outcomes.items() if test.startswith(file))
            lines.append(f"| {file or 'all'} | {method} | " + " | ".join(str(count[kind]) for kind in kinds) + " |")
    passed = {test for test, (outcome, _) in results.get("lora", {}).items() if outcome == "passed"}
    for method, outcomes in results.items():
        for kind in kinds[1:] if method != "lora" and passed else ():
            tests = {test: outcomes[test][1] for test in passed & set(outcomes) if outcomes[test][0] == kind}
            lines += ["", *reasons(method, kind, tests)]
    return "\n".join(lines)


def reasons(method: str, kind: str, tests: dict[str, str]) -> list[str]:
    """Lines on the tests that pass with LoRA and are skipped, refused or failed with a method, by reason."""
    by_reason = defaultdict(list)
    for test, reason in tests.items():
        known = NOT_OF_BLOCKS.get(name_of(test)) if kind == "failed" else None
        by_reason[known or shortened(reason)].append(test)
    lines = [f"Pass with lora, {kind} with {method}: {len(tests)}"]
    for reason, found in sorted(by_reason.items(), key=lambda item: (-len(item[1]), item[0])):
        lines.append(f"- {len(found)}× {reason}\n  {', '.join(sorted({name_of(test) for test in found}))}")
    return lines


def name_of(test: str) -> str:
    """The name of a test's function."""
    return re.sub(r".*::|\[.*", "", test)


def shortened(reason: str) -> str:
    """The first line of an error, without names that differ from model to model."""
    line = next(iter(reason.strip().splitlines()), "")
    line = re.sub(r"(?<=HostError: )\w+", "…", line)
    return line if len(line) <= 160 else line[:159] + "…"


if __name__ == "__main__":
    sys.exit(main())
